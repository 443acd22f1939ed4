"""Failures as values: one image never stops the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hilum.errors import HilumError, OutOfMemoryError, UnexpectedError

T = TypeVar("T")


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
        failure = UnexpectedError(f"{type(error).__name__} in {_place(error)}.")
    # Frames in tracebacks hold decoded films; a queue of failures must not.
    failure.__traceback__ = failure.__context__ = failure.__cause__ = None
    return failure


def _place(error: Exception) -> str:
    """``module:line`` of the innermost frame of ours."""
    place, step = "?", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "?")
        if module.partition(".")[0] == __name__.partition(".")[0]:
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place
