"""ONNX Runtime on an NVIDIA GPU, for machines without TensorRT."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from hilum.engines import Signature
from hilum.engines.gpu import Float32Array, GpuEngine, UInt8Array
from hilum.engines.onnxruntime import (
    SILENT,
    TARGETS,
    gpu_failed,
    library,
    name_of,
    open_session,
    run_failed,
)
from hilum.packages.load import Package
from hilum.packages.manifest import Manifest


class OnnxRuntimeCudaEngine(GpuEngine):
    """Runs a package's graph for GPUs with ONNX Runtime's CUDA provider.

    Float32 operations are computed in float32. ONNX Runtime's default, TF32, would keep ten bits of
    each input. Every run has ``max_batch`` images, and smaller batches are padded: whenever the
    batch size changes, ONNX Runtime plans each convolution again, which takes as long as 20 to 400
    runs. benchmarks/results/2026-11-26-gpu.md has the figures for both.

    Raises:
        HilumError: see :func:`hilum.engines.onnxruntime.open_session`.
        DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: the first run failed.
    """

    def __init__(self, package: Package, *, max_batch: int) -> None:
        manifest = package.manifest
        super().__init__(name_of(manifest, "cuda"), Signature.of(manifest), max_batch)
        _load_cuda(library())
        self._session: Any = open_session(package, "cuda", options=options(manifest))
        self.run(np.zeros((max_batch, *self._shape), dtype=np.uint8))

    def close(self) -> None:
        """See :meth:`GpuEngine.close`."""
        self._session = None

    def _run(self, images: UInt8Array, probability: Float32Array, cam: Float32Array) -> None:
        count = len(images)
        if count < self.max_batch:
            images = np.pad(images, ((0, self.max_batch - count), (0, 0), (0, 0), (0, 0)))
        try:
            outputs = self._session.run(["probability", "cam"], {"image": images})
        except Exception as error:
            where = f"a batch of {self.max_batch}"
            raise gpu_failed(where, error) or run_failed(self.max_batch, error) from None
        probability[...], cam[...] = (output[:count] for output in outputs)


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
