"""Half precision and int8: the right types, the right parts, numbers close to float32."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support.small_backbones import graph, images

from export import half, int8
from export.errors import PrecisionError
from export.graph import EXACT_OPS, exact_nodes, fold, layers
from export.session import Session

Outputs = list[np.ndarray]


def run(model: bytes, name: str = "resnet18", *, as_written: bool = False) -> Outputs:
    found = Session(model, as_written=as_written).run(images(name, 3, seed=9).numpy())
    return [found.probability, found.cam]


def difference(
    model: bytes, name: str = "resnet18", *, as_written: bool = False
) -> tuple[float, float]:
    """Largest |Δp|, and |Δcam| in units of the largest cam, against float32."""
    (p, cam), (p0, cam0) = run(model, name, as_written=as_written), run(graph(name), name)
    return float(np.abs(p - p0).max()), float(np.abs(cam - cam0).max() / cam0.max())


@functools.cache
def calibrated() -> int8.Calibrated:
    return int8.calibrate(graph("resnet18"), images("resnet18", 5, seed=4).numpy())


def test_entry_and_exit_are_exact_and_the_backbone_is_not() -> None:
    model = fold(graph("resnet18"))
    exact = exact_nodes(model)
    kinds = [node.op_type for node in model.graph.node if node.name in exact]
    assert sorted(kinds) == sorted(
        ["Cast", "Mul", "Add", "ReduceMean", "Gemm", "Sigmoid", "Conv", "Relu"]
    )
    found = [*layers(model).values()]
    assert len(found) == 20
    assert found[:2] == ["features.0", "features.4.0.conv1"]


def test_weights_alone_are_computed_once_in_float32() -> None:
    """AlexNet's first hidden layer, summed over its cells."""
    model = fold(graph("alexnet"))
    assert "ReduceSum" not in {node.op_type for node in model.graph.node}
    exact = {
        node.name: node.op_type for node in model.graph.node if node.name in exact_nodes(model)
    }
    assert sorted(exact.values()) == sorted(
        ["Cast", "Mul", "Add", "Gemm", "Sigmoid", "Div", "MatMul", "Relu", "Reshape"]
    )


@pytest.mark.parametrize(
    ("name", "convert", "kind", "limits"),
    [
        ("resnet18", half.to_fp16, TensorProto.FLOAT16, (5e-4, 1e-2)),
        ("resnet18", half.to_bf16, TensorProto.BFLOAT16, (5e-3, 5e-2)),
        # Random weights whose maps nearly cancel: a mask that turns weighs more than in a model.
        ("alexnet", half.to_fp16, TensorProto.FLOAT16, (5e-4, 5e-2)),
    ],
)
def test_half_precision(name: str, convert: object, kind: int, limits: tuple[float, float]) -> None:
    made = convert(graph(name))  # type: ignore[operator]
    model = onnx.load_model_from_string(made)
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [TensorProto.UINT8]
    outputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert outputs == {"probability": TensorProto.FLOAT, "cam": TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types |= outputs | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in EXACT_OPS:
            assert types[node.output[0]] == TensorProto.FLOAT
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions[:-1]} == {kind}
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 2**16]
    assert {t.data_type for t in large} == {kind} or name == "alexnet"
    p, cam = difference(half.emulate(made), name)
    assert 0 < p <= limits[0], "no difference at all would mean that nothing was rounded"
    assert 0 < cam <= limits[1]


def test_emulation_rounds_where_onnx_runtime_itself_does_not() -> None:
    made = half.to_fp16(graph("resnet18"))
    emulated, direct = run(half.emulate(made)), run(made)
    assert np.abs(emulated[1] - direct[1]).max() > 0


def test_a_weight_beyond_half_precision_is_refused() -> None:
    model = onnx.load_model_from_string(graph("resnet18"))
    weight = next(t for t in model.graph.initializer if t.name.endswith("0.conv1.weight"))
    large = numpy_helper.to_array(weight) * np.float32(1e7)
    weight.CopyFrom(numpy_helper.from_array(large, weight.name))
    with pytest.raises(PrecisionError, match=r"conv1\.weight"):
        half.to_fp16(model.SerializeToString())


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_int8_quantises_the_body_as_the_target_wants_it(target: int8.Target) -> None:
    made = int8.quantise(calibrated(), target=target)
    model = onnx.load_model_from_string(made)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    quantised = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and producer[node.input[0]].op_type == "DequantizeLinear"
    ]
    assert len(quantised) == 20  # of 21: the maps' own layer stays float32
    for node in quantised:
        weights = producer[node.input[1]]
        values, scale = constants[weights.input[0]], constants[weights.input[1]]
        assert values.dtype == np.int8
        assert scale.shape == values.shape[:1]  # per channel
        assert np.abs(values.astype(int)).max() <= (64 if target == "cpu" else 127)
    activations = [
        constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"
    ]
    assert {zero.dtype for zero in activations} == {
        np.dtype(np.uint8 if target == "cpu" else np.int8)
    }
    if target == "tensorrt":
        assert not any(zero.any() for zero in activations)
        assert not any(value.dtype == np.int32 for value in constants.values())  # biases
    # TensorRT's sums do not saturate; the CPU's graph is made so that its own do not, either.
    p, cam = difference(made, as_written=target == "tensorrt")
    assert p <= 0.02
    assert cam <= 0.25


def test_layers_that_are_kept_stay_float() -> None:
    names = [*calibrated().layers.values()]
    whole = int8.quantise(calibrated(), target="cpu")
    part = int8.quantise(calibrated(), target="cpu", keep={*names[:10]})
    none = int8.quantise(calibrated(), target="cpu", keep={*names})
    assert len(whole) < len(part) < len(none)
    assert difference(none)[0] <= difference(whole)[0]


def test_calibration_needs_films() -> None:
    with pytest.raises(PrecisionError, match="training films"):
        int8.calibrate(graph("resnet18"), np.zeros((0, 1, 64, 64), np.uint8))


def test_quantisation_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    films = images("resnet18", 1).numpy()
    int8.quantise(int8.calibrate(graph("resnet18"), films, method="percentile"), target="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
