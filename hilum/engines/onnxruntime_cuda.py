"""ONNX Runtime on an NVIDIA GPU, for machines without TensorRT."""

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
    """Runs a package's graph for GPUs with ONNX Runtime's CUDA provider.

    Float32 operations are computed in float32. ONNX Runtime's default, TF32, would keep ten bits of
    each input. Every run has ``max_batch`` images, and smaller batches are padded: whenever the
    batch size changes, ONNX Runtime plans each convolution again, which takes as long as 20 to 400
    runs. benchmarks/results/2026-11-26-gpu.md has the figures for both.

    Args:
        package: a verified package.
        max_batch: images of one run. Larger batches are split.

    Raises:
        HilumError: see :func:`hilum.engines.onnxruntime.open_session`.
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
            DeviceLostError: this process lost the GPU, in this call or an earlier one.
            DeviceOutOfMemoryError, EngineFailedError: the batch may be tried again.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise EngineFailedError(f"The engine cannot run {images.dtype} {images.shape}.")
        probability = np.empty((len(images), self._labels), dtype=np.float32)
        cam = np.empty((len(images), self._labels, *self._grid), dtype=np.float32)
        for start in range(0, len(images), self.max_batch):
            rows = slice(start, start + self.max_batch)
            probability[rows], cam[rows] = self._run_padded(images[rows])
        return EngineOutput(probability=probability, cam=cam)

    def close(self) -> None:
        """Free the GPU's memory."""
        self._session = None

    def _run_padded(self, images: npt.NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        count = len(images)
        if count < self.max_batch:
            padding = np.zeros((self.max_batch - count, *self._shape), dtype=np.uint8)
            images = np.concatenate([images, padding])
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
    """Options of the CUDA provider for the package's graph."""
    half = manifest.graph_for(TARGETS["cuda"]).precision in ("fp16", "bf16")
    return {
        "use_tf32": "0",
        # The default tries every algorithm for every batch size: that takes seconds, gains little.
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "1" if half else "0",  # tensor cores read half-precision values as NHWC
    }


def _load_cuda(onnxruntime: Any) -> None:
    """Load the CUDA libraries that pip installed, which the dynamic loader does not find."""
    onnxruntime.set_default_logger_severity(SILENT)
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which libraries are missing
            onnxruntime.preload_dlls()
