"""The TensorRT engine: one plan on one GPU."""

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
    """A package's plan on this process's GPU.

    :meth:`run` takes more images than the plan's profile does. Several threads may call it; they
    wait for one another.

    Args:
        package: verified; the plan is of its graph.
        record: of the plan.
        plan: its bytes, the digest checked (see :meth:`PlanStore.read`).
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
        self._turn = threading.Lock()
        self._slot = Slot(runtime, self._loaded, promised, cuda_graphs=cuda_graphs)

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
        """Give the GPU's memory back. Nothing may be running."""
        self._slot.close()

    def _settle(self, error: BaseException) -> None:
        """Wait for whatever was started, as its memory is used again; note a lost GPU."""
        if isinstance(error, DeviceLostError):
            self._lost = error
        try:
            self._slot.stream.wait()
        except DeviceLostError as lost:
            self._lost = self._lost or lost
        except HilumError:
            pass  # of a run whose results nobody wants any more
