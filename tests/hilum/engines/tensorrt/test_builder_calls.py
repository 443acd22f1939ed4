"""What the builder is told, and that none of its failure values is overlooked: on a TensorRT that
is not there, for what TensorRT-RTX on the CPU cannot do."""

from __future__ import annotations

from typing import Any

import pytest
from support import tiny_package
from support.fake_cuda import FakeCuda

from hilum.engines import Signature
from hilum.engines.tensorrt.build import Built, build
from hilum.engines.tensorrt.record import BuildOptions
from hilum.errors import DeviceOutOfMemoryError, EngineBuildError, EngineUnavailableError
from hilum.packages.labels import SYNTHETIC

LABELS = len(SYNTHETIC.labels)
PROMISED = Signature(
    inputs={"image": ("uint8", (-1, 1, 64, 64))},
    outputs={"probability": ("float32", (-1, LABELS)), "cam": ("float32", (-1, LABELS, 4, 4))},
)


def run(timing_cache: bytes = b"", **options: Any) -> Built:
    graph = tiny_package.graph(64).SerializeToString()
    build_options = BuildOptions(profile=(1, 8, 16), **options)
    return build(graph, PROMISED, build_options, timing_cache=timing_cache)


def test_precision_is_the_graphs_and_tf32_is_off(trt: Any) -> None:
    assert run().plan
    assert trt.state.config.flags == set()
    assert trt.state.config.profile.batches == (1, 8, 16)
    assert trt.state.config.builder_optimization_level == 3
    assert not trt.state.config.limits


def test_every_option_reaches_the_builder(trt: Any) -> None:
    run(
        optimization_level=5,
        hardware="ampere_plus",
        version_compatible=True,
        tf32=True,
        workspace_bytes=2**30,
    )
    config = trt.state.config
    flags = trt.BuilderFlag
    assert config.flags == {flags.TF32, flags.VERSION_COMPATIBLE}
    assert config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.builder_optimization_level == 5
    assert config.limits == {trt.MemoryPoolType.WORKSPACE: 2**30}


def test_timings_are_taken_up_and_given_back(trt: Any) -> None:
    first = run()
    assert first.timing_cache == b"+measured"
    assert run(timing_cache=first.timing_cache).timing_cache == b"+measured+measured"


@pytest.mark.parametrize("refused", ["create_timing_cache", "set_timing_cache"])
def test_timings_of_another_machine_are_not_used(trt: Any, refused: str) -> None:
    trt.state.failing[refused] = [None]
    assert run(timing_cache=b"of another GPU").timing_cache == b"+measured"
    assert trt.state.timing_caches == [b"of another GPU", b""]


def test_without_any_timing_cache_the_build_goes_on(trt: Any) -> None:
    trt.state.failing["set_timing_cache"] = [False, False]
    assert run(timing_cache=b"x").timing_cache == b""


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("create_network", None, "cannot create a network: it is what it is"),
        ("create_builder_config", None, "cannot create a configuration: it is what it is"),
        ("create_optimization_profile", None, "cannot create a batch profile: it is what it is"),
        ("parse", False, "node conv1 (Conv): it is what it is [INVALID_NODE]"),
        ("add_optimization_profile", -1, "batch profile 1, 8, 16: it is what it is"),
        ("build_serialized_network", None, "cannot build the network: it is what it is"),
        ("set_flag", None, "does not accept the flag VERSION_COMPATIBLE"),
        ("clear_flag", None, "does not accept the flag TF32"),
        ("hardware_compatibility_level", None, "hardware compatibility AMPERE_PLUS"),
    ],
)
def test_no_failure_value_is_overlooked(trt: Any, method: str, answer: Any, said: str) -> None:
    trt.state.failing[method] = [answer]
    trt.state.said = "it is what it is"
    with pytest.raises(EngineBuildError) as caught:
        run(version_compatible=True, hardware="ampere_plus")
    assert said in caught.value.detail


@pytest.mark.parametrize("kind", ["Builder", "OnnxParser"])
def test_what_cannot_be_made_is_said_with_tensorrts_words(trt: Any, kind: str) -> None:
    """The bindings raise a bare TypeError: "factory function returned nullptr"."""
    trt.state.failing[kind] = [None]
    trt.state.said = "CUDA initialization failure with error: 35"
    with pytest.raises(
        EngineUnavailableError, match=f"cannot create a {kind} on this machine: .*error: 35"
    ):
        run()


def test_a_builder_that_finds_no_room_is_a_matter_of_memory(gpu: FakeCuda, trt: Any) -> None:
    trt.state.failing["Builder"] = [None]
    gpu.last = gpu.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DeviceOutOfMemoryError):
        run()


def test_without_a_gpu_no_builder_is_made(gpu: FakeCuda, trt: Any) -> None:
    gpu.devices = 0  # the fake's Builder fails the test if it is made now
    with pytest.raises(EngineUnavailableError, match="sees no GPU"):
        run()
