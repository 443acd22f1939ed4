"""What engines on a GPU share: batches of a limited size, and a GPU that may be lost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput, Signature
from hilum.errors import DeviceLostError, EngineFailedError

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]


class GpuEngine(ABC):
    """Splits batches that are larger than ``max_batch``.

    Several threads may call :meth:`run`; the calls run one after the other. Once the GPU is lost,
    every call fails, until another process replaces this one.
    """

    def __init__(self, name: str, signature: Signature, max_batch: int) -> None:
        self.name = name
        self.max_batch = max_batch
        self._shape = signature.inputs["image"][1][1:]
        self._outputs = [signature.outputs[name][1][1:] for name in ("probability", "cam")]
        self._lost: DeviceLostError | None = None
        self._turn = threading.Lock()

    def run(self, images: UInt8Array) -> EngineOutput:
        """See :class:`hilum.engines.Engine`.

        Raises:
            DeviceLostError: this process lost the GPU, in this call or an earlier one.
            DeviceOutOfMemoryError, EngineFailedError: the batch may be tried again.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost.detail)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise EngineFailedError(f"The engine cannot run {images.dtype} {images.shape}.")
        outputs: list[npt.NDArray[Any]] = [
            np.empty((len(images), *shape), dtype=np.float32) for shape in self._outputs
        ]
        with self._turn:
            try:
                for start in range(0, len(images), self.max_batch):
                    rows = slice(start, start + self.max_batch)
                    self._run(images[rows], *(output[rows] for output in outputs))
            except DeviceLostError as error:
                self._lost = error
                raise
        return EngineOutput(probability=outputs[0], cam=outputs[1])

    @abstractmethod
    def _run(self, images: UInt8Array, probability: Float32Array, cam: Float32Array) -> None:
        """Fill ``probability`` and ``cam`` for at most ``max_batch`` images."""

    @abstractmethod
    def close(self) -> None:
        """Free the GPU's memory. No call of :meth:`run` may be in progress."""
