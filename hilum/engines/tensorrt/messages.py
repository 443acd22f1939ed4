"""Collect TensorRT's messages, so that an error can quote them."""

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
    """The error messages of one operation, oldest first."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(self)

    def take(self, severity: str, text: str) -> None:
        """Keep an error message, and log every message but VERBOSE ones at DEBUG."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(text)
        if severity != "VERBOSE":
            log.debug("%s: %s", severity, text)

    def quote(self, fallback: str = "It gives no reason.") -> str:
        """The first errors, for the text of an exception. The first is the cause; later ones are
        mostly its consequences."""
        return shorten([*dict.fromkeys(self._errors)]) or fallback


def shorten(texts: list[str]) -> str:
    """Join the first few ``texts``, each shortened, in one line."""
    kept = [" ".join(text.split()) for text in texts[:_QUOTED]]
    return " | ".join(t if len(t) <= _LONGEST else t[: _LONGEST - 1] + "…" for t in kept)


def _logger(messages: Messages) -> trt.ILogger:
    # The base class exists only after the library is loaded.
    class Collector(trt.ILogger):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 requires this call by name

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            # C++ calls this, so an exception raised here would end the process.
            try:
                messages.take(severity.name, msg)
            except Exception:
                log.exception("A message from TensorRT was lost.")

    return Collector()
