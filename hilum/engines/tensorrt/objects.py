"""Create TensorRT's objects, with a typed error that gives the reason if that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from hilum.engines import cuda
from hilum.engines.tensorrt import collector
from hilum.engines.tensorrt.library import label
from hilum.engines.tensorrt.messages import Messages
from hilum.errors import DeviceOutOfMemoryError, EngineUnavailableError

T = TypeVar("T")


def make(kind: Callable[..., T], *arguments: Any, messages: Messages) -> T:
    """Return ``kind(*arguments, logger)``: a builder, a runtime, or a parser.

    If TensorRT cannot create it (the driver is too old, no memory is left), its bindings raise a
    ``TypeError`` about a factory function, and only the logger learns the reason.

    Raises:
        EngineUnavailableError: TensorRT cannot create it here. The detail quotes TensorRT.
        DeviceOutOfMemoryError: the GPU has too little memory.
    """
    try:
        with collector.paused():
            return kind(*arguments, messages.logger)
    except TypeError:
        pass
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
