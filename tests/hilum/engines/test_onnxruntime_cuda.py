"""ONNX Runtime on a GPU that is not there: what it is asked to do, and what its failures become.

That the real one computes the right numbers is in benchmarks/results/2026-11-26-gpu.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.fake_cuda import FakeCuda
from support.fake_onnxruntime import GpuBuild

from hilum.engines import cuda
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, options
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineFailedError,
    EngineUnavailableError,
)
from hilum.packages.load import Package
from hilum.packages.manifest import Variant


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> GpuBuild:
    return GpuBuild(monkeypatch)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(1, 256, (count, 1, 64, 64), dtype=np.uint8)


def test_every_run_is_of_one_size_and_the_first_keeps_no_film_waiting(
    build: GpuBuild, tiny: Package
) -> None:
    """For another size ONNX Runtime plans anew, for up to a second and a half."""
    engine = OnnxRuntimeCudaEngine(tiny, max_batch=6)
    assert len(build.batches) == 1
    for count in (1, 5, 6, 8):
        engine.run(images(count))
    assert {len(batch) for batch in build.batches} == {6}
    assert not build.batches[1][1:].any()  # nobody's film


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_padding_and_parts_change_no_number(
    monkeypatch: pytest.MonkeyPatch, tiny: Package, count: int
) -> None:
    whole = OnnxRuntimeEngine(tiny).run(images(count))
    GpuBuild(monkeypatch)
    found = OnnxRuntimeCudaEngine(tiny, max_batch=4).run(images(count))
    np.testing.assert_allclose(found.probability, whole.probability, atol=1e-6)
    np.testing.assert_allclose(found.cam, whole.cam, atol=1e-5)


@pytest.mark.parametrize("wrong", [np.zeros((1, 1, 32, 32), "uint8"), np.zeros((1, 1, 64, 64))])
def test_images_of_another_kind_are_refused(
    build: GpuBuild, tiny: Package, wrong: np.ndarray
) -> None:
    with pytest.raises(EngineFailedError, match="cannot run"):
        OnnxRuntimeCudaEngine(tiny, max_batch=2).run(wrong)


def test_float32_is_not_tf32(build: GpuBuild, tiny: Package) -> None:
    """ONNX Runtime's default keeps ten bits, which is more than a golden check forgives."""
    OnnxRuntimeCudaEngine(tiny, max_batch=1)
    (asked,) = build.options
    assert asked["use_tf32"] == "0"
    assert asked["prefer_nhwc"] == "0"


def test_the_libraries_that_pip_installed_are_loaded_in_silence(
    build: GpuBuild, tiny: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    OnnxRuntimeCudaEngine(tiny, max_batch=1)
    assert build.preloaded == 1
    assert capsys.readouterr().out == ""  # `hilum score --json` writes there


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=e", DeviceOutOfMemoryError),
        (
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4096",
            DeviceOutOfMemoryError,
        ),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", EngineFailedError),
        ("CUDA failure 1: invalid argument", EngineFailedError),
    ],
)
def test_what_passes_may_be_tried_again(
    build: GpuBuild, tiny: Package, said: str, kind: type[EngineFailedError]
) -> None:
    engine = OnnxRuntimeCudaEngine(tiny, max_batch=2)
    build.fails = f"[ONNXRuntimeError] : 1 : FAIL : {said}"
    with pytest.raises(EngineFailedError) as caught:
        engine.run(images(1))
    assert type(caught.value) is kind
    assert caught.value.transient
    assert "hostname" not in str(caught.value)
    build.fails = None
    assert engine.run(images(1)).probability.shape == (1, 6)


@pytest.mark.parametrize("number", [700, 719, 999])
def test_a_lost_gpu_stays_lost(build: GpuBuild, tiny: Package, number: int) -> None:
    """The process has to be replaced: whatever it asks for next fails too, or is wrong."""
    engine = OnnxRuntimeCudaEngine(tiny, max_batch=2)
    build.fails = f"CUDA failure {number}: something ; GPU=0 ; expr=cudaStreamSynchronize(s)"
    with pytest.raises(DeviceLostError):
        engine.run(images(1))
    build.fails = None
    with pytest.raises(DeviceLostError):
        engine.run(images(1))


def test_a_full_gpu_is_known_by_its_memory(
    monkeypatch: pytest.MonkeyPatch, build: GpuBuild, tiny: Package
) -> None:
    """cuBLAS and cuDNN call it by names of their own."""
    gpu = FakeCuda()
    monkeypatch.setattr(cuda, "load_runtime", lambda: gpu)
    engine = OnnxRuntimeCudaEngine(tiny, max_batch=2)
    build.fails = "CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR"
    with pytest.raises(EngineFailedError) as caught:
        engine.run(images(1))
    assert not isinstance(caught.value, DeviceOutOfMemoryError)
    gpu.room = 2**20
    with pytest.raises(DeviceOutOfMemoryError):
        engine.run(images(1))


def test_a_first_run_that_fails_is_no_engine(build: GpuBuild, tiny: Package) -> None:
    build.fails = "CUDA failure 2: out of memory"
    with pytest.raises(DeviceOutOfMemoryError):
        OnnxRuntimeCudaEngine(tiny, max_batch=2)


def test_cuda_that_does_not_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: Package
) -> None:
    GpuBuild(monkeypatch, starts=False)
    with pytest.raises(EngineUnavailableError, match=r"onnxruntime-gpu\[cuda,cudnn\]"):
        OnnxRuntimeCudaEngine(tiny, max_batch=2)


def test_halves_are_laid_out_for_tensor_cores(tiny: Package) -> None:
    variant = Variant(
        target="tensorrt",
        precision="fp16",
        graph="half.onnx",
        golden="half.npz",
        tolerance=0.01,
        cam_tolerance=0.1,
    )
    manifest = tiny.manifest.model_copy(update={"variants": (variant,)})
    assert options(manifest)["prefer_nhwc"] == "1"
