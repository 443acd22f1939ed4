"""`make gpu-check` from beginning to end on a GPU that is not there: its TensorRT runs plans with
ONNX Runtime, so numbers and failures come out as they should, or are found out."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_tensorrt, tiny_backbone
from support.fake_cuda import FakeCuda
from support.fake_onnxruntime import GpuBuild

from benchmarks import gpu_check, gpu_facts, gpu_onnxruntime, gpu_tensorrt
from benchmarks.gpu_facts import Fact
from hilum.engines import cuda
from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from hilum.engines.tensorrt import library
from hilum.errors import EngineBuildError, EngineFailedError

SIDE = 64
SCOPE = gpu_check.Scope(
    backbones=(tiny_backbone.NAME,), seconds=0.01, size=SIDE, onnxruntime=False, workers=False
)


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """What is looked at does not depend on the size of the backbone."""
    with tiny_backbone.registered():
        yield


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeCuda]:
    fake = FakeCuda()
    fake.room = 2**27
    patch = pytest.MonkeyPatch()
    patch.setattr(cuda, "load_runtime", lambda: fake)
    before = library._bindings.chosen, library._bindings.loaded
    library.use("tensorrt", module=fake_tensorrt.library(fake))
    yield fake
    library._bindings.chosen, library._bindings.loaded = before
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-check")


@pytest.fixture(scope="module")
def facts(gpu: FakeCuda, folder: Path) -> list[Fact]:
    patch = pytest.MonkeyPatch()
    patch.setattr(gpu_facts, "LONG", 3)
    patch.setattr(gpu_facts, "COMPARED", 5)
    found = gpu_check.everything(folder, replace(SCOPE, precisions=("fp32",), max_batch=4))
    listed = [*found]
    patch.undo()
    return listed


def test_everything_is_looked_at_and_holds(facts: list[Fact]) -> None:
    assert [fact.text() for fact in facts if fact.holds is False] == []
    seen = Counter(fact.check for fact in facts)
    assert seen["latency p50"] == seen["latency p99"] == 6  # three buckets, graphs on and off
    assert seen["throughput"] == 1
    expected = {
        "build", "build with timings", "load", "GPU memory", "numbers |Δp|", "golden check",
        "plan ampere_plus", "plan version compatible", "truncated plan", "no memory",
        "works again",
    }  # fmt: skip
    assert expected <= set(seen)
    assert {f.case for f in facts if f.check == "golden check"} == {"tiny fp32"}


def test_wrong_numbers_are_found_out(
    gpu: FakeCuda,
    facts: list[Fact],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU that adds something to every probability."""
    package = gpu_tensorrt.verify(folder / "tiny-fp32")  # made for the facts above
    real = ctypes.memmove
    target: list[int] = []

    def off(dst: Any, src: Any, count: int) -> Any:
        done = real(dst, src, count)
        if count % (14 * 4) == 0 and count <= 16 * 14 * 4:
            floats = (ctypes.c_float * (count // 4)).from_address(dst)
            np.ctypeslib.as_array(floats)[...] += 0.1
            target.append(count)
        return done

    options = gpu_tensorrt.BuildOptions(
        profile=gpu_tensorrt.profile_of(package.manifest, batch_size=8)
    )
    store = gpu_tensorrt.PlanStore(folder / "engines")
    provided = gpu_tensorrt.build_into(store, package, options)
    engine = gpu_tensorrt._open(package, store, provided.record)
    monkeypatch.setattr("support.fake_cuda.ctypes.memmove", off)
    found = {f.check: f.holds for f in gpu_tensorrt.numbers(engine, package, "wrong")}
    assert target
    assert found["numbers |Δp|"] is False
    assert found["golden check"] is False


def test_a_step_that_fails_is_a_fact_and_the_others_go_on(
    gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour on a GPU is hard to come by: one precision that does not build must not end it."""
    real = gpu_tensorrt.build_into

    def build_into(store: Any, package: Any, options: Any, **more: Any) -> Any:
        if package.manifest.graph_for("tensorrt").precision == "fp16":
            raise EngineBuildError("No kernel for fp16.")
        return real(store, package, options, **more)

    def compatible(*_: Any) -> Any:
        raise ValueError("of a kind that nobody thought of")

    def latency(*_: Any, **__: Any) -> Any:
        raise EngineFailedError("once")
        yield

    monkeypatch.setattr(gpu_tensorrt, "build_into", build_into)
    monkeypatch.setattr(gpu_tensorrt, "compatible", compatible)
    monkeypatch.setattr(gpu_tensorrt, "latency", latency)
    monkeypatch.setattr(gpu_facts, "LONG", 2)
    before = sum(gpu.on_device.values())
    facts = [
        *gpu_check.everything(tmp_path, replace(SCOPE, precisions=("fp32", "fp16"), max_batch=2))
    ]
    failed = {(f.check, f.case): f.detail for f in facts if f.holds is False}
    assert {*failed} == {
        ("build", "tiny fp16"),
        ("latency", "tiny fp32 graphs on"),
        ("latency", "tiny fp32 graphs off"),
        ("compatible", "tiny fp32"),
    }
    assert "No kernel for fp16." in failed["build", "tiny fp16"]
    assert failed["compatible", "tiny fp32"].startswith("ValueError: of a kind")
    assert {"throughput", "works again"} <= {f.check for f in facts}
    assert sum(gpu.on_device.values()) == before  # the engines of failed steps are closed


def test_onnxruntimes_gpu_build_is_looked_at_and_holds(
    gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GpuBuild(monkeypatch, gpu)
    monkeypatch.setattr(gpu_facts, "LONG", 2)
    monkeypatch.setattr(gpu_onnxruntime, "BATCH", 2)
    monkeypatch.setattr(gpu_onnxruntime, "DEVICE", "cpu")
    scope = replace(SCOPE, precisions=("fp32", "fp16"), tensorrt=False, onnxruntime=True)
    facts = [*gpu_check.everything(tmp_path, scope)]
    assert [fact.text() for fact in facts if fact.holds is False] == []
    seen = Counter(fact.check for fact in facts)
    assert seen["golden check"] == seen["no memory"] == seen["works again"] == 2
    assert seen["maps of all labels"] == seen["maps: autograd, one label"] == 1
    assert all(fact.value > 0 for fact in facts if fact.check.startswith("maps"))


def test_a_full_gpu_that_is_taken_for_something_else_is_found_out(
    gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GpuBuild(monkeypatch, gpu)
    package = gpu_check.make(tmp_path / "one", "tiny", "fp32", size=SIDE, max_batch=2)
    monkeypatch.setattr("hilum.engines.onnxruntime._gpu_is_full", lambda: False)
    opened = partial(OnnxRuntimeCudaEngine, package, max_batch=2)
    found = {f.check: f for f in gpu_facts.full(opened, package, "one")}
    assert found["no memory"].holds is False
    assert found["works again"].holds


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = FakeCuda()
    empty.devices = 0
    monkeypatch.setattr(cuda, "load_runtime", lambda: empty)
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    with pytest.raises(SystemExit) as caught:
        gpu_check.main()
    assert caught.value.code == 2
    assert "the driver sees no GPU" in capsys.readouterr().err
