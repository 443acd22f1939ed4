"""Which engine runs a package, and what is said about it."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support import fake_tensorrt, tiny_package
from support.fake_cuda import FakeCuda

from hilum.commands.doctor import doctor, examine
from hilum.commands.engine import engine as engine_command
from hilum.engines import cuda
from hilum.engines.loading import open_engine
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.options import BuildOptions, profile_of
from hilum.engines.tensorrt.record import PlanRecord, key_for, this_machine
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
from hilum.package import GOLDEN, GRAPH, Variant
from hilum.package_io import Package, seal, verify
from hilum.settings import Settings, TensorRTSettings

SIDE = 32


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package whose golden outputs are those of the fake TensorRT's plans."""
    return golden_of_the_fake(tmp_path / "fake")


@pytest.fixture
def ordinary(tmp_path: Path) -> Package:
    """A package that ONNX Runtime reproduces."""
    tiny_package.build(tmp_path / "ordinary", size=SIDE)
    return verify(tmp_path / "ordinary")


def golden_of_the_fake(folder: Path) -> Package:
    manifest = tiny_package.build(folder, size=SIDE)
    image = np.random.default_rng(1).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8)
    labels = len(manifest.label_set.labels)
    probability, cam = fake_tensorrt.expected(image, labels, manifest.cam_grid)
    np.savez(folder / GOLDEN, image=image, probability=probability, cam=cam)
    fields = {
        name: getattr(manifest, name)
        for name in type(manifest).model_fields
        if name not in ("files", "format")
    }
    seal(folder, **fields)
    return verify(folder)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "load_runtime", lambda: fake)
    return fake


@pytest.fixture
def trt(gpu: FakeCuda) -> Iterator[Any]:
    before = library._bindings.chosen, library._bindings.loaded
    module = fake_tensorrt.library(gpu)
    library.use("tensorrt", module=module)
    yield module
    library._bindings.chosen, library._bindings.loaded = before


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Settings]:
    def make(engine: str = "auto", **more: Any) -> Settings:
        section = TensorRTSettings(engine_dir=tmp_path / "engines", **more)
        return Settings(engine=engine, tensorrt=section, cache_dir=tmp_path / "cache")

    return make


def put_plan(package: Package, folder: Path, plan: bytes | None = None) -> PlanRecord:
    manifest = package.manifest
    plan = plan or fake_tensorrt.make_plan(
        size=SIDE,
        labels=len(manifest.label_set.labels),
        grid=manifest.cam_grid,
        max_batch=manifest.input.max_batch,
    )
    options = BuildOptions(profile=profile_of(manifest, batch_size=8))
    variant = manifest.graph_for("tensorrt")
    record = PlanRecord(
        key=key_for(manifest.files[variant.graph], variant.precision, this_machine(), options),
        architecture_sha256="0" * 64,
        model="tiny 1.0.0",
        package=package.digest,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        built_at=datetime.now(UTC),
        build_seconds=1.0,
    )
    folder.mkdir(exist_ok=True)
    PlanStore(folder).save(record, plan)
    return record


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
    fields = {
        name: getattr(package.manifest, name)
        for name in type(package.manifest).model_fields
        if name not in ("files", "format")
    }
    seal(folder, **{**fields, "variants": (variant,)})
    both = verify(folder)
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
    import onnxruntime

    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, graph: bytes, options: Any, providers: list[Any]) -> None:
            asked.append(providers)
            self._session = real(graph, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    engine = open_engine(ordinary, config())
    assert (engine.name, engine.reason) == ("onnxruntime-cuda", "auto:engine.missing")
    assert "CUDAExecutionProvider" in str(asked)


def test_onnxruntime_that_goes_over_to_the_cpu_is_noticed(
    ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one does that without a word where CUDA does not start."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda graph, options, providers: real(graph, options, providers=["CPUExecutionProvider"]),
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EngineUnavailableError, match="cannot start CUDA"):
        open_engine(ordinary, config("onnxruntime-cuda"))


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


def test_a_missing_or_damaged_plan_is_built_where_the_settings_say_so(
    trt: Any, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hilum.engines.tensorrt import provision

    package = ordinary  # the fake builder's plans run the graph

    settings = config("tensorrt", on_missing="build")
    built: list[BuildOptions] = []

    real = provision.build_into

    def build_into(store: PlanStore, package: Package, options: BuildOptions, **more: Any) -> Any:
        built.append(options)
        return real(store, package, options, **more)

    monkeypatch.setattr(provision, "build_into", build_into)
    assert open_engine(package, settings).name.startswith("tensorrt-")
    assert (built[0].profile.optimum, built[0].profile.maximum) == (8, 16)
    open_engine(package, settings)
    assert len(built) == 1  # there now
    (plan,) = settings.engine_dir.glob("*.plan")
    plan.write_bytes(b"cut short")
    open_engine(package, settings)
    assert len(built) == 2


def test_a_plan_that_tensorrt_refuses_is_built_again_once(
    trt: Any, ordinary: Package, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """It is intact and fits by its key: nothing but loading it tells."""
    put_plan(ordinary, config().engine_dir, plan=b"of a TensorRT with another patch")
    with pytest.raises(EngineIncompatibleError, match="does not load the plan"):
        open_engine(ordinary, config("tensorrt"))
    settings = config("tensorrt", on_missing="build")
    with caplog.at_level(logging.INFO):
        assert open_engine(ordinary, settings).name.startswith("tensorrt-")
    assert trt.state.builds == 1
    open_engine(ordinary, settings)
    assert trt.state.builds == 1
    said = {r.getMessage(): r.fields for r in caplog.records if hasattr(r, "fields")}
    assert said["engine.building"] == {"because": "engine.incompatible"}
    assert said["engine.build_phase"] == {"phase": "Building engine"}
    assert said["engine.built"]["new"] is True


def test_a_plan_that_is_refused_again_is_not_built_for_ever(
    trt: Any, ordinary: Package, config: Config
) -> None:
    settings = config("tensorrt", on_missing="build")
    put_plan(ordinary, settings.engine_dir)
    trt.state.failing["deserialize_cuda_engine"] = [None, None]
    with pytest.raises(EngineIncompatibleError):
        open_engine(ordinary, settings)
    assert trt.state.builds == 1


def test_who_waited_for_a_build_takes_the_plan_that_was_built(
    trt: Any, ordinary: Package, config: Config
) -> None:
    """Of two workers that meet the same plan, the second does not build it again."""
    from hilum.engines.tensorrt.provision import build_into

    settings = config("tensorrt", on_missing="build")
    old = put_plan(ordinary, settings.engine_dir, plan=b"refused")
    store = PlanStore(settings.engine_dir)
    options = BuildOptions(profile=profile_of(ordinary.manifest, batch_size=8))
    first = build_into(store, ordinary, options, refused=old.plan_sha256)
    second = build_into(store, ordinary, options, refused=old.plan_sha256)
    assert (first.new, second.new) == (True, False)
    assert first.plan == second.plan == store.read(first.record)


def test_a_plan_built_for_smaller_batches_is_used(
    trt: Any, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("tensorrt")
    monkeypatch.setenv("HILUM_TENSORRT__ENGINE_DIR", str(settings.engine_dir))
    arguments = ["build", str(ordinary.folder), "--max-batch", "2"]
    done = CliRunner().invoke(engine_command, arguments)
    assert done.exit_code == 0, done.output
    engine = open_engine(ordinary, settings)
    images = np.random.default_rng(0).integers(0, 256, (5, 1, SIDE, SIDE), dtype=np.uint8)
    cpu = open_engine(ordinary, config("onnxruntime")).run(images)
    np.testing.assert_allclose(engine.run(images).probability, cpu.probability, atol=1e-6)
    assert max(trt.state.executions) == 2


def test_memory_for_parts_of_a_batch_is_taken_only_where_it_is_asked_for(
    gpu: FakeCuda, trt: Any, package: Package, config: Config
) -> None:
    """Workers give the engine one batch at a time, which the plan takes whole."""
    put_plan(package, config().engine_dir)
    taken = []
    for more in ({}, {"streams": 2}):
        before = sum(gpu.on_device.values())
        open_engine(package, config("tensorrt", **more))
        taken.append(sum(gpu.on_device.values()) - before)
    assert taken[1] == 2 * taken[0]


def test_tensorrt_that_is_not_installed_is_said(
    gpu: FakeCuda, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library._bindings, "loaded", None)
    monkeypatch.setattr(library._bindings, "chosen", "tensorrt")
    with pytest.raises(EngineUnavailableError, match="tensorrt is not installed") as caught:
        open_engine(ordinary, config("tensorrt"))
    assert "hilum[tensorrt]" in caught.value.body()["next_step"]


# --- hilum doctor -------------------------------------------------------------------------


def test_the_doctor_sees_the_gpu_and_the_engine(trt: Any, package: Package, config: Config) -> None:
    settings = config()
    put_plan(package, settings.engine_dir)
    report = examine(settings, str(package.folder))
    assert report["gpu"]["name"] == "NVIDIA L4"
    assert report["tensorrt"]["library"] == "TensorRT 11.4.0.106"
    assert report["tensorrt"]["plans"] == 1
    assert report["engine"]["name"] == "tensorrt-11.4.0.106-sm89-fp32"
    assert report["engine"]["because"] == "there is a GPU and a plan for it"


def test_the_doctor_says_what_is_missing(
    gpu: FakeCuda, ordinary: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.devices = 0
    done = CliRunner().invoke(doctor, ["--model", str(ordinary.folder)])
    assert done.exit_code == 0
    assert "the driver sees no GPU" in done.output
    assert "onnxruntime-cpu (HILUM_ENGINE=auto)" in done.output

    monkeypatch.setenv("HILUM_ENGINE", "tensorrt")
    done = CliRunner().invoke(doctor, ["--model", str(ordinary.folder), "--json"])
    assert done.exit_code == 2
    error = json.loads(done.output)["engine"]["error"]
    assert error["code"] == "engine.unavailable"


def test_the_doctor_survives_a_missing_model(gpu: FakeCuda) -> None:
    done = CliRunner().invoke(doctor, ["--model", "/nowhere", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.output)["engine"]["error"]["code"] == "package.missing"


# --- hilum engine list and remove ------------------------------------------------------------


def test_plans_are_listed_with_whether_they_run_here(
    gpu: FakeCuda,
    trt: Any,
    package: Package,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = config().engine_dir
    monkeypatch.setenv("HILUM_TENSORRT__ENGINE_DIR", str(folder))
    record = put_plan(package, folder)
    run = CliRunner().invoke
    assert "runs here" in run(engine_command, ["list"]).output
    gpu.properties.name = b"NVIDIA A10"
    listed = json.loads(run(engine_command, ["list", str(package.folder), "--json"]).output)
    assert (listed["id"], listed["runs_here"]) == (record.key.id, False)
    assert "this is NVIDIA A10" in listed["why"]
    PlanStore(folder).path(record).write_bytes(b"")
    assert "0 bytes" in run(engine_command, ["list"]).output
    assert run(engine_command, ["remove", record.key.id[:8]]).exit_code == 0
    assert run(engine_command, ["list"]).output == ""
