"""Render overlays in threads of their own: a few at a time, with a short queue.

An overlay fetches and decodes a whole film. In the threads that answer all requests, a hundred
abandoned overlays would delay submissions and probes for half a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import BoundedSemaphore, Event
from typing import TypeVar

from fastapi import Request

from api_gateway.errors import OverlaysBusyError
from hilum.logs import CarryingThreads

T = TypeVar("T")
_LOOK_S = 0.1  # between two checks whether the client is still connected


class ClientGoneError(Exception):
    """The client has closed the connection."""


class Renderer:
    """Renders ``threads`` overlays at a time; ``queue`` more may wait."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._pool = CarryingThreads(threads, thread_name_prefix="overlay")
        self._room = BoundedSemaphore(threads + queue)

    async def render(self, request: Request, work: Callable[[Callable[[], None]], T]) -> T:
        """Run ``work`` and return its result. ``work`` gets a function to call between its steps,
        which raises once the client has closed the connection.

        Raises:
            OverlaysBusyError: the queue is full.
            ClientGoneError: the client has closed the connection.
        """
        if not self._room.acquire(blocking=False):
            raise OverlaysBusyError("The queue of overlays is full.")
        gone = Event()

        def check() -> None:
            if gone.is_set():
                raise ClientGoneError

        def run() -> T:
            check()
            return work(check)

        job = self._pool.submit(run)
        job.add_done_callback(lambda _: self._room.release())
        future = asyncio.wrap_future(job)
        # Otherwise asyncio would report the failure of an abandoned overlay.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=_LOOK_S)
                if not future.done() and await request.is_disconnected():
                    raise ClientGoneError
            return future.result()
        finally:
            gone.set()  # ends running work at its next step
            job.cancel()  # takes waiting work out of the queue

    def close(self) -> None:
        """Drop the queue."""
        self._pool.shutdown(wait=False, cancel_futures=True)
