"""The TensorRT engine: one plan, several streams, batches overlapping."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput, cuda
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.network import signature
from hilum.engines.tensorrt.plan import load
from hilum.engines.tensorrt.record import PlanRecord
from hilum.engines.tensorrt.slot import Slot
from hilum.errors import DeviceLostError, EngineFailedError, EngineIncompatibleError, HilumError
from hilum.packages.load import Package

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Flying:
    """A part of a batch on the GPU: which slot, which rows."""

    slot: Slot
    start: int
    count: int


class TensorRTEngine:
    """A package's plan on this process's GPU.

    The engine is shared, each slot has its own stream and contexts: while one slot computes, the
    next one's images are copied. :meth:`run` may be called from several threads, and takes more
    images than the profile does.

    Args:
        package: verified; the plan is of its graph.
        record: of the plan.
        plan: its bytes, the digest checked (see :meth:`PlanStore.read`).
        streams: slots, each with the memory of the plan's largest batch. More than one are of use
            to calls with more images than that, and to calls from several threads.
        cuda_graphs: record each bucket's run and launch it as one.

    Raises:
        EngineUnavailableError: no TensorRT, or no GPU.
        EngineIncompatibleError, EngineDamagedError: the plan is not of this package, or does not
            load here.
        DeviceOutOfMemoryError: the GPU has no room for it.
    """

    def __init__(
        self,
        package: Package,
        record: PlanRecord,
        plan: bytes,
        *,
        streams: int = 1,
        cuda_graphs: bool = True,
    ) -> None:
        manifest = package.manifest
        if record.key.graph_sha256 != manifest.files[manifest.graph_for("tensorrt").graph]:
            raise EngineIncompatibleError("The TensorRT plan was made of another graph.")
        device = cuda.require_device()
        runtime = cuda.load_runtime()
        promised = signature(manifest)
        self._loaded = load(plan, promised, host_code=record.key.version_compatible)
        self.name = "-".join(
            (
                library.chosen().replace("_", ""),
                record.key.library_version,
                device.sm.replace("_", ""),
                record.key.precision,
            )
        )
        self.max_batch = self._loaded.max_batch
        self._shape = (1, manifest.input.size, manifest.input.size)
        self._outputs = [shape for _, shape in promised.outputs.values()]
        self._lost: DeviceLostError | None = None
        self._slots: list[Slot] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        try:
            for _ in range(streams):
                slot = Slot(runtime, self._loaded, promised, cuda_graphs=cuda_graphs)
                self._slots.append(slot)
                self._free.put(slot)
        except BaseException:
            self.close()
            raise

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`.

        Raises:
            DeviceLostError: now or in an earlier call: this process has no GPU any more.
            DeviceOutOfMemoryError, EngineFailedError: the batch may be tried again.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost.detail)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise EngineFailedError(f"Images are {images.dtype} {images.shape}.")
        shapes = self._outputs
        probability: Float32Array = np.empty((len(images), *shapes[0]), dtype=np.float32)
        cam: Float32Array = np.empty((len(images), *shapes[1]), dtype=np.float32)
        flying: deque[_Flying] = deque()
        try:
            for start in range(0, len(images), self.max_batch):
                part = images[start : start + self.max_batch]
                slot = self._take(flying, probability, cam)
                flying.append(_Flying(slot, start, len(part)))
                slot.start(part)
            while flying:
                self._land(flying, probability, cam)
        except BaseException as error:
            self._abandon(flying, error)
            raise
        return EngineOutput(probability=probability, cam=cam)

    def close(self) -> None:
        """Give the GPU's memory back. Nothing may be running."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()

    def _take(
        self,
        flying: deque[_Flying],
        probability: Float32Array,
        cam: Float32Array,
    ) -> Slot:
        """A free slot; if others hold them all, this call's own oldest, once it has landed."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            if flying:
                self._land(flying, probability, cam)
            return self._free.get()

    def _land(
        self,
        flying: deque[_Flying],
        probability: Float32Array,
        cam: Float32Array,
    ) -> None:
        first = flying[0]
        rows = slice(first.start, first.start + first.count)
        first.slot.finish(probability[rows], cam[rows])
        self._free.put(flying.popleft().slot)

    def _abandon(self, flying: deque[_Flying], error: BaseException) -> None:
        """Leave no slot busy: each is waited for, as its memory is used again."""
        if isinstance(error, DeviceLostError):
            self._lost = error
        while flying:
            slot = flying.popleft().slot
            try:
                slot.stream.wait()
            except DeviceLostError as lost:
                self._lost = self._lost or lost
            except HilumError:
                pass  # of a run whose results nobody wants any more
            self._free.put(slot)
