"""Rendering overlays beside everything else: few at a time, a short queue, none for nobody.

An overlay reads and decodes a whole film. In the threads that answer all requests, a hundred that
nobody waits for any more would hold up submissions and probes for half a minute.
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
_LOOK_S = 0.1  # between two looks whether the client is still there


class ClientGoneError(Exception):
    """Nobody waits for this overlay any more."""


class Renderer:
    """``threads`` overlays at a time and ``queue`` waiting."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._pool = CarryingThreads(threads, thread_name_prefix="overlay")
        self._room = BoundedSemaphore(threads + queue)

    async def render(self, request: Request, work: Callable[[Callable[[], None]], T]) -> T:
        """What ``work`` returns. It is handed a function to call between its steps, which ends it
        once the client has gone.

        Raises:
            OverlaysBusyError: the queue is full.
            ClientGoneError: the client went away.
        """
        if not self._room.acquire(blocking=False):
            raise OverlaysBusyError("As many overlays as may wait are waiting.")
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
        # Of an overlay for nobody the failure is no news to asyncio either.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=_LOOK_S)
                if not future.done() and await request.is_disconnected():
                    raise ClientGoneError
            return future.result()
        finally:
            gone.set()  # ends it at its next step if it runs
            job.cancel()  # takes it out of the queue if it waits

    def close(self) -> None:
        """Drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)
