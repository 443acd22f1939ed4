"""Threads that load images, the most urgent first."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hilum.logs import carry


@dataclass(order=True, frozen=True)
class _Order:
    urgency: int
    number: int
    future: Future[Any] = field(compare=False)
    run: Callable[[], Any] = field(compare=False)


class LoadThreads:
    """``count`` threads for everything, and ``reserved`` ones for what has urgency 0.

    The reserved threads keep urgent images from waiting for the end of others, which may take as
    long as a decoder is allowed.
    """

    def __init__(self, count: int, *, reserved: int = 0) -> None:
        self._orders: list[_Order] = []
        self._changed = threading.Condition()
        self._number = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(n >= count,), name=f"hilum-load-{n}")
            for n in range(count + reserved)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def submit(self, run: Callable[[], Any], *, urgency: int = 0) -> Future[Any]:
        """Run this on one of the threads; smaller numbers of ``urgency`` come first."""
        future: Future[Any] = Future()
        with self._changed:
            self._number += 1
            order = _Order(urgency, self._number, future, carry(run))
            heapq.heappush(self._orders, order)
            self._changed.notify_all()
        return future

    def shutdown(self) -> None:
        """Cancel what has not begun, and wait for the rest."""
        with self._changed:
            self._closed = True
            for order in self._orders:
                order.future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, urgent_only: bool) -> None:
        while (order := self._next(urgent_only)) is not None:
            if not order.future.set_running_or_notify_cancel():
                continue
            try:
                result = order.run()
            except BaseException as error:
                order.future.set_exception(error)
            else:
                order.future.set_result(result)
            del order

    def _next(self, urgent_only: bool) -> _Order | None:
        with self._changed:
            while not (self._orders and (not urgent_only or self._orders[0].urgency == 0)):
                if self._closed:
                    return None
                self._changed.wait()
            return heapq.heappop(self._orders)
