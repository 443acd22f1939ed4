"""TensorRT and Python's garbage collector."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No garbage collection within.

    TensorRT calls its logger while it makes a builder or a runtime, and holds a lock meanwhile that
    their destructors take as well. If that call of Python code starts a collection, and there is
    another builder among the garbage, the thread waits for itself for ever (seen with TensorRT-RTX
    1.7.1).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def release(error: BaseException) -> None:
    """Let go of what the frames that ``error`` came through still hold.

    An error that is kept would otherwise keep TensorRT's objects, gigabytes of them, until the
    collector comes by.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
