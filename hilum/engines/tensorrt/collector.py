"""Keep Python's garbage collector from blocking TensorRT or keeping its objects alive."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Disable garbage collection within the block.

    While TensorRT creates a builder or a runtime, it calls its logger, which is Python code, and
    holds a lock that the destructors of these objects need too. A garbage collection at that moment
    that finds another builder would deadlock the thread (seen with TensorRT-RTX 1.7.1).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def release(error: BaseException) -> None:
    """Clear the frames in the traceback of ``error``.

    Otherwise an error that is kept would keep TensorRT's objects alive, which hold gigabytes.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
