"""TensorRT's own objects: made, or a typed error that says why not."""

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
    """``kind(*arguments, logger)``: a builder, a runtime, or a parser.

    Where TensorRT makes none (a driver that is too old, no memory), its bindings raise a
    ``TypeError`` about a factory function, and the reason goes to the logger only.

    Raises:
        EngineUnavailableError: TensorRT makes none here; its own words are quoted.
        DeviceOutOfMemoryError: for want of the GPU's memory.
    """
    try:
        with collector.paused():
            return kind(*arguments, messages.logger)
    except TypeError:
        pass
    raise_if_out_of_memory(messages, f"a {kind.__name__}")
    raise EngineUnavailableError(
        f"{label()} makes no {kind.__name__} here: {messages.quote()}",
        next_step="Install a driver that this TensorRT runs on, or choose engine `onnxruntime`.",
    )


def raise_if_out_of_memory(messages: Messages, what: str) -> None:
    """``what`` may have failed for want of memory, and that is no fault of plan or machine.

    Raises:
        DeviceOutOfMemoryError: CUDA's last error or TensorRT's words say so.
    """
    code = ""
    with contextlib.suppress(EngineUnavailableError):  # TensorRT-RTX builds without CUDA
        (error, *_) = cuda.load_runtime().cudaGetLastError()
        code = error.name
    said = messages.quote("").lower()
    if code == "cudaErrorMemoryAllocation" or "outofmemory" in said or "out of memory" in said:
        raise DeviceOutOfMemoryError(f"The GPU has no memory left for {what}.")
