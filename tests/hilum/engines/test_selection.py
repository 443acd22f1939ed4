"""Which engine runs a package, and what is said about it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support import tiny_package
from support.fake_cuda import FakeCuda
from support.fake_onnxruntime import GpuBuild
from support.plans import put_plan

from hilum.engines.loading import open_engine
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.runtime import TensorRTEngine
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineDamagedError,
    EngineIncompatibleError,
    EngineMissingError,
    EngineUnavailableError,
    GoldenCheckError,
    HilumError,
)
from hilum.packages.load import Package
from hilum.packages.manifest import GOLDEN, GRAPH, Variant
from hilum.settings import Settings

Config = Callable[..., Settings]


def test_auto_takes_tensorrt_where_a_plan_fits(trt: Any, package: Package, config: Config) -> None:
    settings = config()
    put_plan(package, settings.engine_dir)
    engine = open_engine(package, settings)
    assert engine.name == "tensorrt-11.4.0.106-sm89-fp32"
    assert engine.reason == "auto"


def test_tensorrt_runs_the_graph_that_was_made_for_it(
    trt: Any, package: Package, config: Config
) -> None:
    """In the same package, the CPU has another one."""
    folder = package.folder
    (folder / "model.tensorrt.onnx").write_bytes(package.read(GRAPH) + b"\x12\x00")
    (folder / "golden.tensorrt.npz").write_bytes(package.read(GOLDEN))
    variant = Variant(
        target="tensorrt",
        precision="int8",
        graph="model.tensorrt.onnx",
        golden="golden.tensorrt.npz",
        tolerance=0.1,
        cam_tolerance=0.1,
    )
    both = tiny_package.resealed(folder, variants=(variant,))
    settings = config("tensorrt")
    with pytest.raises(EngineMissingError):
        open_engine(both, settings)
    record = put_plan(both, settings.engine_dir)
    assert record.key.graph_sha256 == both.manifest.files["model.tensorrt.onnx"]
    assert open_engine(both, settings).name == "tensorrt-11.4.0.106-sm89-int8"


def test_without_a_gpu_auto_takes_the_cpu_and_says_why(
    gpu: FakeCuda, ordinary: Package, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.devices = 0
    with caplog.at_level(logging.INFO):
        engine = open_engine(ordinary, config())
    assert engine.name == "onnxruntime-cpu"
    assert engine.reason == "auto:engine.unavailable"
    fields = [r.fields for r in caplog.records if r.getMessage() == "engine.chosen"]  # type: ignore[attr-defined]
    assert fields[0]["engine"] == "onnxruntime-cpu"
    assert "the driver sees no GPU" in fields[0]["because"]
    passed = [r.fields["candidate"] for r in caplog.records if "passed_over" in r.getMessage()]  # type: ignore[attr-defined]
    assert passed == ["tensorrt", "onnxruntime-cuda"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_with_a_driver_too_old_for_tensorrt_auto_takes_the_cpu(
    trt: Any, ordinary: Package, config: Config
) -> None:
    """There is a GPU and a plan, and the bindings raise a bare TypeError."""
    settings = config()
    put_plan(ordinary, settings.engine_dir)
    trt.state.failing["Runtime"] = [None]
    trt.state.said = "CUDA initialization failure with error: 35"
    engine = open_engine(ordinary, settings)
    assert (engine.name, engine.reason) == ("onnxruntime-cpu", "auto:engine.unavailable")
    assert "error: 35" in engine.because


def test_without_a_plan_auto_takes_the_cpu(trt: Any, ordinary: Package, config: Config) -> None:
    engine = open_engine(ordinary, config())
    assert (engine.name, engine.reason) == ("onnxruntime-cpu", "auto:engine.missing")


def test_a_plan_that_computes_something_else_is_passed_over_loudly(
    trt: Any, ordinary: Package, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config()
    put_plan(ordinary, settings.engine_dir)
    engine = open_engine(ordinary, settings)
    assert (engine.name, engine.reason) == ("onnxruntime-cpu", "auto:package.golden_mismatch")
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["WARNING"]


def test_an_engine_that_is_passed_over_leaves_nothing_on_the_gpu(
    gpu: FakeCuda, trt: Any, ordinary: Package, config: Config
) -> None:

    def engines() -> int:  # not isinstance, which some of the objects there take amiss
        return sum(type(thing) is TensorRTEngine for thing in gc.get_objects())

    settings = config()
    put_plan(ordinary, settings.engine_dir)
    gc.collect()
    gc.disable()
    try:
        before = engines()
        engine = open_engine(ordinary, settings)
        assert engine.reason == "auto:package.golden_mismatch"
        assert not gpu.on_device
        assert not gpu.streams
        assert not gpu.graphs
        # Nor does the reason that is kept hold on to the engine, and so to TensorRT's own memory.
        assert engines() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", ["auto", "tensorrt"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("cudaErrorLaunchFailure", DeviceLostError),
        ("cudaErrorMemoryAllocation", DeviceOutOfMemoryError),
    ],
)
def test_a_gpu_that_fails_for_now_does_not_make_a_plan_wrong(
    gpu: FakeCuda,
    trt: Any,
    package: Package,
    config: Config,
    engine: str,
    code: str,
    expected: type[HilumError],
) -> None:
    """The worker is to be started again; on the CPU it would stay for good."""
    settings = config(engine)
    put_plan(package, settings.engine_dir)
    gpu.fail("cudaGraphLaunch", code)  # in the golden check
    with pytest.raises(expected):
        open_engine(package, settings)
    assert not gpu.on_device
    gpu.room = 100  # while it loads
    with pytest.raises(DeviceOutOfMemoryError):
        open_engine(package, settings)
    gpu.room = 2**30
    assert open_engine(package, settings).name.startswith("tensorrt-")


def test_onnxruntime_on_the_gpu_comes_second(
    trt: Any, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ONNX Runtime's GPU build played by the CPU's: it is asked for CUDA, and only then."""
    build = GpuBuild(monkeypatch)
    engine = open_engine(ordinary, config())
    assert (engine.name, engine.reason) == ("onnxruntime-cuda", "auto:engine.missing")
    assert len(build.options) == 1


def test_onnxruntime_that_goes_over_to_the_cpu_is_noticed(
    ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one does that without a word where CUDA does not start."""
    GpuBuild(monkeypatch, starts=False)
    with pytest.raises(EngineUnavailableError, match="cannot start CUDA"):
        open_engine(ordinary, config("onnxruntime-cuda"))


def test_a_full_gpu_is_not_passed_over_for_the_cpu(
    ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = GpuBuild(monkeypatch)
    build.fails = "CUDA failure 2: out of memory"
    with pytest.raises(DeviceOutOfMemoryError):
        open_engine(ordinary, config())


def test_the_cpu_build_is_not_taken_for_the_gpu_one(ordinary: Package, config: Config) -> None:
    with pytest.raises(EngineUnavailableError, match="onnxruntime-gpu"):
        open_engine(ordinary, config("onnxruntime-cuda"))


def test_an_engine_asked_for_by_name_is_never_replaced(
    gpu: FakeCuda, trt: Any, ordinary: Package, config: Config
) -> None:
    settings = config("tensorrt")
    with pytest.raises(EngineMissingError):
        open_engine(ordinary, settings)
    record = put_plan(ordinary, settings.engine_dir)
    with pytest.raises(GoldenCheckError):
        open_engine(ordinary, settings)
    PlanStore(settings.engine_dir).path(record).write_bytes(b"short")
    with pytest.raises(EngineDamagedError):
        open_engine(ordinary, settings)
    gpu.properties.name = b"NVIDIA H100"
    with pytest.raises(EngineIncompatibleError, match="this is NVIDIA H100"):
        open_engine(ordinary, settings)
    gpu.devices = 0
    with pytest.raises(EngineUnavailableError):
        open_engine(ordinary, settings)
    cpu = open_engine(ordinary, config("onnxruntime"))
    assert (cpu.name, cpu.reason) == ("onnxruntime-cpu", "configured")


def test_tensorrt_that_is_not_installed_is_said(
    gpu: FakeCuda, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library._bindings, "loaded", None)
    monkeypatch.setattr(library._bindings, "chosen", "tensorrt")
    with pytest.raises(EngineUnavailableError, match="tensorrt is not installed") as caught:
        open_engine(ordinary, config("tensorrt"))
    assert "hilum[tensorrt]" in caught.value.body()["next_step"]
