"""`make gpu-check` from beginning to end on a GPU that is not there: its TensorRT runs plans with
ONNX Runtime, so numbers, refits and failures come out as they should, or are found out."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_tensorrt
from support.fake_cuda import FakeCuda

from benchmarks import gpu_check
from hilum.engines import cuda
from hilum.engines.tensorrt import library

SIDE = 64


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
def facts(gpu: FakeCuda, tmp_path_factory: pytest.TempPathFactory) -> list[gpu_check.Fact]:
    found = gpu_check.everything(
        tmp_path_factory.mktemp("gpu-check"),
        backbones=["resnet18"],
        precisions=["fp32"],
        seconds=0.01,
        size=SIDE,
        workers=False,
    )
    return [*found]


def test_everything_is_looked_at_and_holds(facts: list[gpu_check.Fact]) -> None:
    assert [fact.text() for fact in facts if fact.holds is False] == []
    seen = Counter(fact.check for fact in facts)
    assert seen["latency p50"] == seen["latency p99"] == 10  # five buckets, graphs on and off
    assert seen["throughput"] == 3
    expected = {
        "build", "build with timings", "load", "GPU memory", "numbers |Δp|", "golden check",
        "refit", "plan ampere_plus", "plan version compatible", "truncated plan", "no memory",
        "works again",
    }  # fmt: skip
    assert expected <= set(seen)
    assert {f.case for f in facts if f.check == "golden check"} == {
        "resnet18 fp32",
        "resnet18 fp32 refitted",
    }


def test_wrong_numbers_are_found_out(
    gpu: FakeCuda,
    facts: list[gpu_check.Fact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU that adds something to every probability."""
    package = gpu_check.make(tmp_path / "package", "resnet18", "fp32", size=SIDE)
    real = ctypes.memmove
    target: list[int] = []

    def off(dst: Any, src: Any, count: int) -> Any:
        done = real(dst, src, count)
        if count % (14 * 4) == 0 and count <= 16 * 14 * 4:
            floats = (ctypes.c_float * (count // 4)).from_address(dst)
            np.ctypeslib.as_array(floats)[...] += 0.1
            target.append(count)
        return done

    options = gpu_check.BuildOptions(profile=gpu_check.profile_of(package.manifest, batch_size=8))
    store = gpu_check.PlanStore(tmp_path / "engines")
    provided = gpu_check.build_into(store, package, options)
    engine = gpu_check._open(package, store, provided)
    monkeypatch.setattr("support.fake_cuda.ctypes.memmove", off)
    found = {f.check: f.holds for f in gpu_check.numbers(engine, package, "wrong")}
    assert target
    assert found["numbers |Δp|"] is False
    assert found["golden check"] is False


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
