"""TensorRT-RTX on this machine's CPU (the real parser and builder), and a TensorRT with a GPU
that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import fake_tensorrt
from support.fake_cuda import FakeCuda

from hilum.engines import cuda
from hilum.engines.tensorrt import library


@pytest.fixture
def rtx() -> Iterator[None]:
    """``trt`` stands for tensorrt_rtx while the test runs."""
    import tensorrt_rtx

    before = library._bindings.chosen, library._bindings.loaded
    library.use("tensorrt_rtx", module=tensorrt_rtx)
    yield
    library._bindings.chosen, library._bindings.loaded = before


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """An L4 that is not there."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "load_runtime", lambda: fake)
    return fake


@pytest.fixture
def trt(gpu: FakeCuda) -> Iterator[Any]:
    """TensorRT 11.4 on that GPU; a test arranges it through ``trt.state``."""
    before = library._bindings.chosen, library._bindings.loaded
    module = fake_tensorrt.library(gpu)
    library.use("tensorrt", module=module)
    yield module
    library._bindings.chosen, library._bindings.loaded = before
