"""Failures as values: one image never stops the others."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from hilum.errors import HilumError, OutOfMemoryError, UnexpectedError

T = TypeVar("T")

OUR_PACKAGES: Final = ("hilum", "worker", "api_gateway", "trainer", "export")


def capture_failure(step: Callable[[], T]) -> T | HilumError:
    """What ``step`` returns, or its failure as a value: one image never stops the others.

    An exception that hilum did not foresee becomes an :class:`UnexpectedError` that names its
    type and where it was raised; its text could hold anything, so it is left out.
    """
    try:
        return step()
    except HilumError as error:
        failure = error
    except MemoryError:
        failure = OutOfMemoryError("There was not enough memory for this image.")
    except Exception as error:
        failure = UnexpectedError(f"{type(error).__name__} in {place_of(error.__traceback__)}.")
    # Frames in tracebacks hold decoded films; a queue of failures must not.
    failure.__traceback__ = failure.__context__ = failure.__cause__ = None
    return failure


def place_of(traceback: TracebackType | None) -> str:
    """``module:line`` of the innermost frame of ours; of the innermost at all if none is."""
    ours = place = "?"
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        place = f"{module}:{traceback.tb_lineno}"
        if module.partition(".")[0] in OUR_PACKAGES:
            ours = place
        traceback = traceback.tb_next
    return place if ours == "?" else ours
