"""The real parser and builder of TensorRT-RTX, on the CPU: what they take, and how what they
refuse comes back."""

from __future__ import annotations

import _thread
import gc
import threading
import traceback
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_package import graph as tiny_graph

from hilum.engines import Signature
from hilum.engines.tensorrt.build import Progress, build
from hilum.engines.tensorrt.library import trt
from hilum.engines.tensorrt.objects import Messages
from hilum.engines.tensorrt.record import BuildOptions
from hilum.errors import EngineBuildError, PackageError
from hilum.packages.labels import SYNTHETIC

pytestmark = pytest.mark.usefixtures("rtx")

SIDE = 64
COUNT = len(SYNTHETIC.labels)
PROMISED = Signature(
    inputs={"image": ("uint8", (-1, 1, SIDE, SIDE))},
    outputs={"probability": ("float32", (-1, COUNT)), "cam": ("float32", (-1, COUNT, 4, 4))},
)
OPTIONS = BuildOptions(profile=(1, 2, 4), optimization_level=0)


def tiny() -> bytes:
    return bytes(tiny_graph(SIDE).SerializeToString())


def test_a_plan_comes_out_with_progress() -> None:
    seen: list[Progress] = []
    built = build(tiny(), PROMISED, OPTIONS, report=seen.append)
    assert len(built.plan) > 1000
    assert built.seconds > 0
    assert {step.phase for step in seen if step.parent is None}
    assert all(0 <= step.done <= max(step.steps, step.done) for step in seen)


def test_who_watches_the_build_cannot_break_it() -> None:
    def broken(_: Progress) -> None:
        raise RuntimeError("the terminal is gone")

    assert build(tiny(), PROMISED, OPTIONS, report=broken).plan


def test_no_garbage_is_collected_while_the_builder_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The destructor of another builder would wait for the lock that this thread holds."""
    collecting: list[bool] = []
    taken = Messages.take

    def take(self: Messages, severity: str, text: str) -> None:
        collecting.append(gc.isenabled())
        taken(self, severity, text)

    # TensorRT remarks on a builder that has another logger than the one before.
    another = trt.Builder(Messages().logger)
    monkeypatch.setattr(Messages, "take", take)
    assert build(tiny(), PROMISED, OPTIONS).plan
    assert collecting
    assert not collecting[0]
    assert gc.isenabled()
    del another


def test_a_failed_build_keeps_nothing_of_tensorrt() -> None:
    with pytest.raises((EngineBuildError, PackageError)) as caught:
        build(tiny()[:100], PROMISED, OPTIONS)
    held = [set(frame.f_locals) for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert not any(names & {"builder", "network", "parser"} for names in held)


def test_ctrl_c_cancels_the_build() -> None:
    """The interrupt reaches the caller, and the building thread has ended by then."""
    interrupted = threading.Event()

    def interrupt(_: Progress) -> None:
        if not interrupted.is_set():
            interrupted.set()
            _thread.interrupt_main()
            threading.Event().wait(1.0)  # the builder would be done before anybody noticed

    with pytest.raises(KeyboardInterrupt):
        build(tiny(), PROMISED, OPTIONS, report=interrupt)
    assert interrupted.is_set()
    for thread in threading.enumerate():
        if thread.name == "hilum-engine-build":
            thread.join(1)  # its work is over; the thread itself may be on its last lines
    assert not [t for t in threading.enumerate() if t.name == "hilum-engine-build" and t.is_alive()]


def test_an_operator_the_parser_does_not_know_is_named() -> None:
    model = tiny_graph(SIDE)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.name = "Frobnicate", "the_odd_one"
    error = refused(model.SerializeToString())
    assert "the_odd_one (Frobnicate)" in error.detail
    assert "TensorRT-RTX" in error.detail
    assert "Plugin not found" in error.detail
    assert "INVALID_NODE" in error.detail


def test_dimensions_that_do_not_fit_are_explained_by_the_parser() -> None:
    model = tiny_graph(SIDE)
    for tensor in model.graph.initializer:
        if tensor.name == "weights":  # for three channels, where the graph has one
            wide = np.repeat(numpy_helper.to_array(tensor), 3, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(wide, "weights"))
    error = refused(model.SerializeToString())
    assert error.code == "engine.build_failed"
    assert "Kernel weight dimension failed to broadcast" in error.detail


def test_a_profile_the_graph_cannot_take_is_explained_by_the_builder() -> None:
    model = tiny_graph(SIDE)
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.output[0] = "each"
    for name, shape in (("triples", [-1, 3 * COUNT]), ("singles", [-1, COUNT])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    model.graph.node.append(helper.make_node("Reshape", ["each", "triples"], ["by_three"]))
    model.graph.node.append(helper.make_node("Reshape", ["by_three", "singles"], ["probability"]))
    error = refused(model.SerializeToString())
    assert "cannot build the network" in error.detail
    assert "values for profile 0 violate shape constraints" in error.detail


def test_a_profile_of_another_size_than_the_graph_is_noticed_before_the_build() -> None:
    other = Signature(inputs={"image": ("uint8", (-1, 1, 32, 32))}, outputs=PROMISED.outputs)
    with pytest.raises(EngineBuildError, match="must have the inputs image"):
        build(tiny(), other, OPTIONS)


def test_outputs_under_other_names_are_noticed() -> None:
    other = Signature(inputs=PROMISED.inputs, outputs={"p": ("float32", (-1, COUNT))})
    with pytest.raises(EngineBuildError, match=r"outputs cam .*, but must have .* outputs p "):
        build(tiny(), other, OPTIONS)


@pytest.mark.parametrize("keep", [0, 10, 100, -20])
def test_a_damaged_graph_is_refused(keep: int) -> None:
    with pytest.raises((EngineBuildError, PackageError)):
        build(tiny()[:keep], PROMISED, OPTIONS)


def test_weights_in_another_file_are_never_fetched() -> None:
    model = tiny_graph(SIDE)
    for tensor in model.graph.initializer:
        if tensor.name == "weights":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "../../etc/passwd"
    with pytest.raises(PackageError, match="another file"):
        build(model.SerializeToString(), PROMISED, OPTIONS)


def test_what_the_builder_cannot_do_here_is_quoted() -> None:
    """A convolution needs more than a byte of scratch memory: the builder's own words say so."""
    options = BuildOptions(profile=OPTIONS.profile, workspace_bytes=1)
    with pytest.raises(EngineBuildError, match="cannot build the network") as caught:
        build(conv_graph(), conv_promised(), options)
    assert "Error Code" in caught.value.detail


def test_a_timing_cache_of_something_else_is_ignored() -> None:
    assert build(tiny(), PROMISED, OPTIONS, timing_cache=b"not a cache").plan


def refused(graph: bytes) -> EngineBuildError:
    with pytest.raises(EngineBuildError) as caught:
        build(graph, PROMISED, OPTIONS)
    return caught.value


def conv_graph() -> bytes:
    """A graph whose body is one convolution."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (COUNT, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "w"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["cam"]),
        helper.make_node("GlobalAveragePool", ["cam"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    values: dict[str, Any] = {"image": (TensorProto.UINT8, ["N", 1, SIDE, SIDE])}
    values |= {
        "probability": (TensorProto.FLOAT, ["N", COUNT]),
        "cam": (TensorProto.FLOAT, ["N", COUNT, SIDE // 2, SIDE // 2]),
    }
    info = {n: helper.make_tensor_value_info(n, t, s) for n, (t, s) in values.items()}
    body = helper.make_graph(
        nodes,
        "conv",
        [info["image"]],
        [info["probability"], info["cam"]],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def conv_promised() -> Signature:
    cam = ("float32", (-1, COUNT, SIDE // 2, SIDE // 2))
    return Signature(
        inputs=PROMISED.inputs, outputs={"probability": ("float32", (-1, COUNT)), "cam": cam}
    )
