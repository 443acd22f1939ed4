"""Create TensorRT's objects, quote TensorRT's messages if that fails, and keep Python's garbage
collector from blocking TensorRT or keeping its objects alive."""

from __future__ import annotations

import contextlib
import gc
import logging
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hilum.engines import cuda
from hilum.engines.tensorrt.library import label, trt
from hilum.errors import DeviceOutOfMemoryError, EngineUnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")
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


def make(kind: Callable[..., T], *arguments: Any, messages: Messages) -> T:
    """Return ``kind(*arguments, logger)``: a builder, a runtime, or a parser.

    If TensorRT cannot create it (the driver is too old, no memory is left), its bindings raise a
    ``TypeError`` about a factory function, and only the logger learns the reason.

    While TensorRT creates a builder or a runtime, it calls its logger, which is Python code, and
    holds a lock that the destructors of these objects need too. A garbage collection at that moment
    that finds another builder would deadlock the thread (seen with TensorRT-RTX 1.7.1), so there is
    none.

    Raises:
        EngineUnavailableError: TensorRT cannot create it here. The detail quotes TensorRT.
        DeviceOutOfMemoryError: the GPU has too little memory.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return kind(*arguments, messages.logger)
    except TypeError:
        pass
    finally:
        if enabled:
            gc.enable()
    raise_if_out_of_memory(messages, f"a {kind.__name__}")
    raise EngineUnavailableError(
        f"{label()} cannot create a {kind.__name__} on this machine: {messages.quote()}",
        next_step="Install a newer GPU driver, or set HILUM_ENGINE to `onnxruntime`.",
    )


def raise_if_out_of_memory(messages: Messages, what: str) -> None:
    """Raise if ``what`` failed because the GPU has too little memory.

    Raises:
        DeviceOutOfMemoryError: CUDA's last error or TensorRT's messages say so.
    """
    code = ""
    with contextlib.suppress(EngineUnavailableError):  # TensorRT-RTX builds without CUDA
        (error, *_) = cuda.load_runtime().cudaGetLastError()
        code = error.name
    text = messages.quote("").lower()
    if code == "cudaErrorMemoryAllocation" or "outofmemory" in text or "out of memory" in text:
        raise DeviceOutOfMemoryError(f"The GPU has too little free memory for {what}.")


def release(error: BaseException) -> None:
    """Clear the frames in the traceback of ``error``.

    Otherwise an error that is kept would keep TensorRT's objects alive, which hold gigabytes.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
