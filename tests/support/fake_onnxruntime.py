"""ONNX Runtime's GPU build, played by the CPU's: what it is asked for, and how it fails."""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
import pytest
from support.fake_cuda import FakeCuda

CUDA = "CUDAExecutionProvider"
_FULL = "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; expr=cublasCreate(&handle);"


class GpuBuild:
    """In the place of ``onnxruntime`` as long as ``patch`` lasts.

    Args:
        patch: undone by who made it.
        gpu: if given, sessions cannot be had while its memory is taken.
        starts: whether CUDA does; if not, sessions go over to the CPU without a word, as real ones.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        gpu: FakeCuda | None = None,
        *,
        starts: bool = True,
    ) -> None:
        self.options: list[dict[str, str]] = []  # of each session
        self.batches: list[Any] = []  # all that ran
        self.preloaded = 0
        # What runs end with, until it is None again; unnoticed where a session may fall back.
        self.fails: str | None = None
        real = onnxruntime.InferenceSession
        build = self

        class Session:
            def __init__(
                self, graph: bytes, options: Any = None, *, providers: list[Any], **more: Any
            ) -> None:
                self._on_gpu = providers[0][0] == CUDA
                if self._on_gpu:
                    build.options.append(providers[0][1])
                    if gpu is not None and gpu.cudaMemGetInfo()[1] < 2**16:
                        raise RuntimeError(_FULL)
                self._falls_back = more.get("enable_fallback", 1)
                self._session = real(graph, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return [*([CUDA] if starts else []), "CPUExecutionProvider"]

            def run(self, outputs: list[str], inputs: dict[str, Any]) -> Any:
                if not self._on_gpu:
                    return self._session.run(outputs, inputs)
                if build.fails is not None and not self._falls_back:
                    raise RuntimeError(build.fails)
                build.batches.append(inputs["image"])
                return self._session.run(outputs, inputs)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._session, name)

        def preload() -> None:
            self.preloaded += 1
            sys.stdout.write("Failed to load libcudnn.so.9\n")  # as the real one does

        patch.setattr(onnxruntime, "InferenceSession", Session)
        patch.setattr(
            onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"]
        )
        patch.setattr(onnxruntime, "preload_dlls", preload)
