"""The engine's state machine on a GPU that is not there: what it computes is checked, so is what
it does when the GPU or TensorRT fails."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support import fake_tensorrt, plans, tiny_package
from support.fake_cuda import FakeCuda

from hilum.engines.tensorrt.record import BuildOptions, PlanRecord
from hilum.engines.tensorrt.runtime import TensorRTEngine, buckets
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineDamagedError,
    EngineFailedError,
    EngineIncompatibleError,
    EngineUnavailableError,
    TransientError,
)
from hilum.packages.load import Package, verify
from hilum.packages.manifest import InputSpec

SIDE = 32
MAX = 4
GRID = tiny_package.GRID


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package")
    tiny_package.build(folder, size=SIDE, input=InputSpec(size=SIDE, max_batch=MAX))
    return verify(folder)


def plan_of(package: Package, **more: Any) -> bytes:
    labels = len(package.manifest.label_set.labels)
    arguments = {"size": SIDE, "labels": labels, "grid": GRID, "max_batch": MAX} | more
    return fake_tensorrt.make_plan(**arguments)


def record_of(package: Package, plan: bytes, **options: Any) -> PlanRecord:
    build = BuildOptions(profile=(1, MAX, MAX), **options)
    return plans.record_of(package, plan, build)


def open_engine(package: Package, **options: Any) -> TensorRTEngine:
    plan = plan_of(package)
    return TensorRTEngine(package, record_of(package, plan), plan, **options)


def films(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8)


def check(engine: TensorRTEngine, images: npt.NDArray[np.uint8]) -> None:
    output = engine.run(images)
    labels = output.probability.shape[1]
    probability, cam = fake_tensorrt.expected(images, labels, GRID)
    np.testing.assert_array_equal(output.probability, probability)
    np.testing.assert_array_equal(output.cam, cam)


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 19])
def test_every_image_gets_its_own_answer(
    trt: Any, package: Package, count: int, cuda_graphs: bool
) -> None:
    engine = open_engine(package, cuda_graphs=cuda_graphs)
    for seed in range(2):  # the second batch finds the first one's leftovers
        check(engine, films(count, seed))


def test_the_name_says_library_version_gpu_and_precision(trt: Any, package: Package) -> None:
    assert open_engine(package).name == "tensorrt-11.4.0.106-sm89-fp32"


def test_batches_run_in_buckets(trt: Any, package: Package) -> None:
    engine = open_engine(package)
    trt.state.executions.clear()
    for count in (1, 2, 3, 4, 5):
        engine.run(films(count))
    assert trt.state.executions == [1, 2, 4, 4, 4, 1]
    assert buckets(1) == (1,)
    assert buckets(16) == (1, 2, 4, 8, 16)
    assert buckets(12) == (1, 2, 4, 8, 12)


def test_the_rows_that_fill_a_bucket_hold_nobody_s_film(trt: Any, package: Package) -> None:
    engine = open_engine(package)
    engine.run(films(4))
    engine.run(films(3, seed=1))
    assert engine._host["image"][:3].any()
    assert not engine._host["image"][3].any()


def test_graphs_are_recorded_at_load_and_only_launched_later(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    engine = open_engine(package)
    assert len(gpu.graphs) == len(buckets(MAX))
    contexts, launches = len(trt.state.contexts), gpu.launches
    check(engine, films(3))
    assert (len(trt.state.contexts), gpu.launches) == (contexts, launches + 1)


def test_without_graphs_nothing_is_recorded(gpu: FakeCuda, trt: Any, package: Package) -> None:
    engine = open_engine(package, cuda_graphs=False)
    check(engine, films(3))
    assert not gpu.graphs
    assert gpu.launches == 0


@pytest.mark.parametrize(
    "step", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_what_cannot_be_recorded_runs_unrecorded(
    gpu: FakeCuda, trt: Any, package: Package, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.fail(step, "cudaErrorStreamCaptureUnsupported")
    engine = open_engine(package)
    assert "Batches of 1 run without a CUDA graph" in caplog.text
    assert len(gpu.graphs) == len(buckets(MAX)) - 1
    check(engine, films(1))
    check(engine, films(3))


def test_nothing_is_allocated_after_the_load(gpu: FakeCuda, trt: Any, package: Package) -> None:
    engine = open_engine(package)
    before = set(gpu.live)
    for count in (1, 7, 4):
        engine.run(films(count))
    assert set(gpu.live) == before


def test_threads_share_the_engine(trt: Any, package: Package) -> None:
    engine = open_engine(package)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for round_ in range(5):
                check(engine, films(1 + (seed + round_) % 11, seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


# --- failures -----------------------------------------------------------------------------


def test_a_failed_batch_may_be_tried_again(gpu: FakeCuda, trt: Any, package: Package) -> None:
    engine = open_engine(package)
    gpu.fail("cudaStreamSynchronize", "cudaErrorNotReady")
    with pytest.raises(EngineFailedError, match="cudaErrorNotReady"):
        engine.run(films(3))
    for _ in range(3):
        check(engine, films(9))


@pytest.mark.parametrize("step", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_lost_gpu_stays_lost(gpu: FakeCuda, trt: Any, package: Package, step: str) -> None:
    engine = open_engine(package)
    gpu.fail(step, "cudaErrorECCUncorrectable")
    with pytest.raises(DeviceLostError, match="cudaErrorECCUncorrectable") as caught:
        engine.run(films(3))
    assert isinstance(caught.value, TransientError)
    assert caught.value.code == "engine.device_lost"
    copies = gpu.copies
    with pytest.raises(DeviceLostError, match="cudaErrorECCUncorrectable"):
        engine.run(films(3))
    assert gpu.copies == copies  # not even tried


def test_a_gpu_lost_in_the_middle_of_a_long_batch(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    engine = open_engine(package)
    gpu.fail("cudaStreamSynchronize", "cudaErrorIllegalAddress", after=1)
    with pytest.raises(DeviceLostError):
        engine.run(films(5 * MAX))
    with pytest.raises(DeviceLostError):
        engine.run(films(1))


def test_memory_that_runs_out_while_running_is_transient(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    engine = open_engine(package)
    gpu.fail("cudaGraphLaunch", "cudaErrorMemoryAllocation")
    with pytest.raises(DeviceOutOfMemoryError) as caught:
        engine.run(films(2))
    assert caught.value.transient
    assert "HILUM_WORKER__BATCH_SIZE" in caught.value.body()["next_step"]
    check(engine, films(2))


@pytest.mark.parametrize("room", [0, 5_000, 8_000])
def test_a_gpu_without_room_is_given_everything_back(
    gpu: FakeCuda, trt: Any, package: Package, room: int
) -> None:
    gpu.room = room
    with pytest.raises(DeviceOutOfMemoryError):
        open_engine(package)
    assert not gpu.live
    assert not gpu.streams
    assert not gpu.graphs


def test_closing_gives_everything_back(gpu: FakeCuda, trt: Any, package: Package) -> None:
    engine = open_engine(package)
    engine.run(films(5))
    engine.close()
    assert not (gpu.live)
    assert not (gpu.streams)
    assert not (gpu.graphs)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("create_execution_context", None),
        ("set_optimization_profile_async", False),
        ("set_input_shape", False),
        ("set_tensor_address", False),
        ("infer_shapes", ["cam"]),
        ("execute_async_v3", False),
    ],
)
def test_no_failure_value_is_overlooked(
    gpu: FakeCuda, trt: Any, package: Package, method: str, answer: Any
) -> None:
    trt.state.failing[method] = [answer]
    trt.state.said = "Error Code 3: API Usage Error (it is what it is)"
    with pytest.raises(EngineFailedError) as caught:
        open_engine(package)
    assert method in caught.value.detail or "cam" in caught.value.detail
    if method != "infer_shapes":
        assert "it is what it is" in caught.value.detail
    assert not (gpu.live)
    assert not (gpu.streams)


def test_cuda_s_own_error_is_preferred_to_tensorrt_s(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    engine = open_engine(package, cuda_graphs=False)
    trt.state.failing["execute_async_v3"] = [False]
    gpu.last = type(gpu.last).cudaErrorLaunchFailure
    with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
        engine.run(films(1))


# --- what is not loaded ---------------------------------------------------------------------


def test_a_plan_this_tensorrt_does_not_read_is_explained(trt: Any, package: Package) -> None:
    plan = b"garbage"
    with pytest.raises(EngineIncompatibleError, match="magic tag"):
        TensorRTEngine(package, record_of(package, plan), plan)


def test_memory_that_was_short_before_is_not_why_a_plan_does_not_load(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    """CUDA keeps its last error until somebody asks for it."""
    gpu.room = 100
    with pytest.raises(DeviceOutOfMemoryError):
        open_engine(package)
    gpu.room = 2**30
    trt.state.failing["deserialize_cuda_engine"] = [None]
    with pytest.raises(EngineIncompatibleError):
        open_engine(package)


@pytest.mark.parametrize("said", ["Error Code 2: OutOfMemory (no further information)", ""])
def test_a_plan_that_finds_no_room_is_not_called_incompatible(
    gpu: FakeCuda, trt: Any, package: Package, said: str
) -> None:
    trt.state.failing["deserialize_cuda_engine"] = [None]
    trt.state.said = said
    if not said:
        gpu.last = type(gpu.last).cudaErrorMemoryAllocation
    with pytest.raises(DeviceOutOfMemoryError, match="for the plan"):
        open_engine(package)


def test_a_plan_that_brings_code_loads_only_if_it_was_meant_to(trt: Any, package: Package) -> None:
    plan = plan_of(package, host_code=True)
    with pytest.raises(EngineIncompatibleError, match="host code"):
        TensorRTEngine(package, record_of(package, plan), plan)
    record = record_of(package, plan, version_compatible=True)
    check(TensorRTEngine(package, record, plan), films(2))


@pytest.mark.parametrize("change", [{"labels": 5}, {"size": 64}, {"grid": (7, 7)}])
def test_a_plan_of_other_inputs_or_outputs_is_refused(
    trt: Any, package: Package, change: dict[str, Any]
) -> None:
    plan = plan_of(package, **change)
    with pytest.raises(EngineDamagedError, match="but must have"):
        TensorRTEngine(package, record_of(package, plan), plan)


def test_a_plan_of_another_graph_is_refused(trt: Any, package: Package, tmp_path: Path) -> None:
    tiny_package.build(tmp_path / "other", size=64)
    other = verify(tmp_path / "other")
    plan = plan_of(package)
    with pytest.raises(EngineIncompatibleError, match="another graph"):
        TensorRTEngine(other, record_of(package, plan), plan)


def test_without_a_gpu_no_object_of_tensorrt_is_made(
    gpu: FakeCuda, trt: Any, package: Package
) -> None:
    plan = plan_of(package)
    record = record_of(package, plan)
    gpu.devices = 0  # the fake's Runtime fails the test if it is made now
    with pytest.raises(EngineUnavailableError, match="sees no GPU"):
        TensorRTEngine(package, record, plan)


@pytest.mark.parametrize("images", [np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 1, 32, 32))])
def test_images_that_do_not_fit_are_refused(
    trt: Any, package: Package, images: npt.NDArray[Any]
) -> None:
    with pytest.raises(EngineFailedError, match="cannot run"):
        open_engine(package).run(images)
