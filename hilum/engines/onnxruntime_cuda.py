"""ONNX Runtime on an NVIDIA GPU, for where there is no TensorRT."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput
from hilum.engines.onnxruntime import (
    SILENT,
    TARGETS,
    gpu_failed,
    library,
    name_of,
    open_session,
    run_failed,
)
from hilum.errors import DeviceLostError, EngineFailedError
from hilum.packages.load import Package
from hilum.packages.manifest import Manifest

Float32Array = npt.NDArray[np.float32]


class OnnxRuntimeCudaEngine:
    """A package's graph for GPUs in ONNX Runtime's CUDA provider.

    What is float32 in the graph is computed in float32: ONNX Runtime's default, TF32, keeps ten
    bits of it. And every run has ``max_batch`` images, fewer being filled up: for a batch of
    another size than the last, known or not, ONNX Runtime plans each convolution anew, which takes
    as long as 20 to 400 runs. benchmarks/results/2026-11-26-gpu.md has the figures of both.

    Args:
        package: verified.
        max_batch: images of one run; larger batches go in parts.

    Raises:
        As :func:`hilum.engines.onnxruntime.open_session`.
        DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: the first run failed.
    """

    name: str

    def __init__(self, package: Package, *, max_batch: int) -> None:
        manifest = package.manifest
        onnxruntime = library()
        _load_cuda(onnxruntime)
        self.name = name_of(manifest, "cuda")
        self.max_batch = max_batch
        self._shape = (1, manifest.input.size, manifest.input.size)
        self._labels, self._grid = len(manifest.label_set.labels), manifest.cam_grid
        self._lost: DeviceLostError | None = None
        self._session: Any = open_session(package, "cuda", options=options(manifest))
        self._run(np.zeros((max_batch, *self._shape), dtype=np.uint8))

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`.

        Raises:
            DeviceLostError: now or in an earlier call: this process has no GPU any more.
            DeviceOutOfMemoryError, EngineFailedError: the batch may be tried again.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise EngineFailedError(f"Images are {images.dtype} {images.shape}.")
        probability = np.empty((len(images), self._labels), dtype=np.float32)
        cam = np.empty((len(images), self._labels, *self._grid), dtype=np.float32)
        for start in range(0, len(images), self.max_batch):
            rows = slice(start, start + self.max_batch)
            probability[rows], cam[rows] = self._filled_up(images[rows])
        return EngineOutput(probability=probability, cam=cam)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._session = None

    def _filled_up(self, images: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        count = len(images)
        if count < self.max_batch:
            nobody = np.zeros((self.max_batch - count, *self._shape), dtype=np.uint8)
            images = np.concatenate([images, nobody])
        probability, cam = self._run(images)
        return probability[:count], cam[:count]

    def _run(self, images: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        if self._lost is not None:
            raise DeviceLostError(self._lost.detail)
        try:
            probability, cam = self._session.run(["probability", "cam"], {"image": images})
        except Exception as error:
            where = f"a batch of {len(images)}"
            failed = gpu_failed(where, error) or run_failed(len(images), error)
            if isinstance(failed, DeviceLostError):
                self._lost = failed
            raise failed from None
        return probability, cam


def options(manifest: Manifest) -> dict[str, str]:
    """Of the CUDA provider, for the package's graph."""
    half = manifest.graph_for(TARGETS["cuda"]).precision in ("fp16", "bf16")
    return {
        "use_tf32": "0",
        # The default tries every algorithm on every batch size, for seconds, and gains little.
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "1" if half else "0",  # tensor cores read halves in that order
    }


def _load_cuda(onnxruntime: Any) -> None:
    """Load the CUDA libraries that pip installed: nobody else tells the loader where they are."""
    onnxruntime.set_default_logger_severity(SILENT)
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it says there what it does not find
            onnxruntime.preload_dlls()
