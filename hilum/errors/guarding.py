"""Failures as values: one image never stops the others."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from hilum.errors import HilumError, OutOfMemoryError, UnexpectedError

T = TypeVar("T")

OUR_PACKAGES: Final = ("hilum", "worker", "api_gateway", "trainer", "export")


def capture_failure(step: Callable[[], T]) -> T | HilumError:
    """Run ``step``, and return its result, or its failure as a value.

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
        failure = UnexpectedError(f"{type(error).__name__} in {place_of(error.__traceback__)}.")
    # A traceback keeps its frames alive, and with them the decoded films.
    failure.__traceback__ = failure.__context__ = failure.__cause__ = None
    return failure


def place_of(traceback: TracebackType | None) -> str:
    """Return ``module:line`` of the innermost frame that is hilum's, else of the innermost."""
    ours = place = "?"
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        place = f"{module}:{traceback.tb_lineno}"
        if module.partition(".")[0] in OUR_PACKAGES:
            ours = place
        traceback = traceback.tb_next
    return place if ours == "?" else ours
