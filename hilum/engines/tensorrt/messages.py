"""What TensorRT says while it works: kept, so that an error can quote it."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from hilum.engines.tensorrt.library import trt

log = logging.getLogger(__name__)

_KEPT: Final = 50
_QUOTED: Final = 3  # messages in one error
_LONGEST: Final = 400  # characters of one message


class Messages:
    """The errors and warnings of one piece of work, oldest first."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(self)

    def take(self, severity: str, text: str) -> None:
        """Keep an error; hand everything but chatter on to Python's logging, at DEBUG."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(text)
        if severity != "VERBOSE":
            log.debug("%s: %s", severity, text)

    def quote(self, fallback: str = "It gives no reason.") -> str:
        """The first errors, for the text of an exception. The first is the cause; those after it
        tend to be its consequences."""
        return quoted([*dict.fromkeys(self._errors)]) or fallback


def quoted(texts: list[str]) -> str:
    """The first of ``texts``, shortened, in one line."""
    kept = [" ".join(text.split()) for text in texts[:_QUOTED]]
    return " | ".join(t if len(t) <= _LONGEST else t[: _LONGEST - 1] + "…" for t in kept)


def _logger(messages: Messages) -> trt.ILogger:
    # The base class is there only once the library is loaded.
    class Collector(trt.ILogger):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants it called by name

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            # An exception here would end the process: C++ calls this.
            try:
                messages.take(severity.name, msg)
            except Exception:
                log.exception("a message of TensorRT was lost")

    return Collector()
