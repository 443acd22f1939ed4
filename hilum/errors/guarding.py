"""Failures as values: one image never stops the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hilum.errors import HilumError, OutOfMemoryError, UnexpectedError

T = TypeVar("T")


def guarded(step: Callable[[], T]) -> T | HilumError:
    """What ``step`` returns, or its failure as a value: one image never stops the others.

    Any other exception becomes an :class:`UnexpectedError` with its type and the line that raised
    it. Its text is left out, because it may contain patient data.
    """
    try:
        return step()
    except HilumError as error:
        failure = error
    except MemoryError:
        failure = OutOfMemoryError("There was not enough memory to process this image.")
    except Exception as error:
        failure = UnexpectedError(f"{type(error).__name__} in {_place(error)}.")
    # A traceback keeps its frames alive, and with them the decoded films.
    failure.__traceback__ = failure.__context__ = failure.__cause__ = None
    return failure


def _place(error: Exception) -> str:
    """Return ``module:line`` of the innermost frame that belongs to hilum."""
    place, step = "?", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "?")
        if module.partition(".")[0] == __name__.partition(".")[0]:
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place
