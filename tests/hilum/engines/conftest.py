"""A GPU with TensorRT that are not there, and packages for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fake_tensorrt, tiny_package
from support.fake_cuda import FakeCuda
from support.plans import SIDE, golden_of_the_fake

from hilum.engines import cuda
from hilum.engines.tensorrt import library
from hilum.packages.load import Package, verify
from hilum.settings import Settings, TensorRTSettings


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
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


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package whose golden outputs are those of the fake TensorRT's plans."""
    return golden_of_the_fake(tmp_path / "fake")


@pytest.fixture
def ordinary(tmp_path: Path) -> Package:
    """A package that ONNX Runtime reproduces."""
    tiny_package.build(tmp_path / "ordinary", size=SIDE)
    return verify(tmp_path / "ordinary")


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Settings]:
    def make(engine: str = "auto", **more: Any) -> Settings:
        section = TensorRTSettings(engine_dir=tmp_path / "engines", **more)
        return Settings(engine=engine, tensorrt=section, cache_dir=tmp_path / "cache")

    return make
