"""The TensorRT engine, which runs one plan on one GPU."""

from __future__ import annotations

import threading

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


class TensorRTEngine:
    """Runs a package's plan on the GPU of this process.

    :meth:`run` splits batches that are larger than the plan allows. Several threads may call it;
    the calls run one after the other.

    Args:
        package: a verified package.
        record: the record of the plan, which was built from the package's graph.
        plan: content of the plan, with its digest checked (see :meth:`PlanStore.read`).
        cuda_graphs: record the run of each bucket as a CUDA graph, and launch that.

    Raises:
        EngineUnavailableError: there is no TensorRT, or no GPU.
        EngineIncompatibleError, EngineDamagedError: the plan belongs to another graph, or does not
            load on this machine.
        DeviceOutOfMemoryError: the GPU has too little memory.
    """

    def __init__(
        self,
        package: Package,
        record: PlanRecord,
        plan: bytes,
        *,
        cuda_graphs: bool = True,
    ) -> None:
        manifest = package.manifest
        if record.key.graph_sha256 != manifest.files[manifest.graph_for("tensorrt").graph]:
            raise EngineIncompatibleError("The TensorRT plan was built from another graph.")
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
        self._turn = threading.Lock()
        self._slot = Slot(runtime, self._loaded, promised, cuda_graphs=cuda_graphs)

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`.

        Raises:
            DeviceLostError: this process lost the GPU, in this call or an earlier one.
            DeviceOutOfMemoryError, EngineFailedError: the batch may be tried again.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost.detail)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise EngineFailedError(f"The engine cannot run {images.dtype} {images.shape}.")
        shapes = self._outputs
        probability: Float32Array = np.empty((len(images), *shapes[0]), dtype=np.float32)
        cam: Float32Array = np.empty((len(images), *shapes[1]), dtype=np.float32)
        with self._turn:
            try:
                for start in range(0, len(images), self.max_batch):
                    rows = slice(start, start + self.max_batch)
                    self._slot.start(images[rows])
                    self._slot.finish(probability[rows], cam[rows])
            except BaseException as error:
                self._settle(error)
                raise
        return EngineOutput(probability=probability, cam=cam)

    def close(self) -> None:
        """Free the GPU's memory. No call of :meth:`run` may be in progress."""
        self._slot.close()

    def _settle(self, error: BaseException) -> None:
        """Wait for the work in progress, because its memory is reused, and note a lost GPU."""
        if isinstance(error, DeviceLostError):
            self._lost = error
        try:
            self._slot.stream.wait()
        except DeviceLostError as lost:
            self._lost = self._lost or lost
        except HilumError:
            pass  # the results of that run are discarded anyway
