"""Graphs whose body computes in float16 or bfloat16, for engines that take types from the graph.

TensorRT 11 has strongly typed networks only: what is float16 in the graph runs as float16, and
nothing else does. Input and outputs keep their types (uint8, float32); entry and exit of the graph
and every operation of :data:`export.graph.EXACT_OPS` stay float32 (see :mod:`export.graph`). The
masks of AlexNet's closed form are comparisons with zero and lose nothing.
"""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.errors import PrecisionError
from export.graph import exact_nodes, folded, parse, serialise

#: The first opset whose Conv and pooling take bfloat16.
_BFLOAT16_OPSET: Final = 22
_LARGEST: Final = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.3895e38}


def to_fp16(graph: bytes) -> bytes:
    """``graph`` with its body in float16.

    Raises:
        PrecisionError: a weight does not fit.
    """
    return serialise(_retyped(folded(graph), TensorProto.FLOAT16))


def to_bf16(graph: bytes) -> bytes:
    """``graph`` with its body in bfloat16, raised to opset 22."""
    model = folded(graph)
    # The operations used here did not change between 20 and 22 but in the types they take.
    model.opset_import[0].version = max(_BFLOAT16_OPSET, model.opset_import[0].version)
    return serialise(_retyped(model, TensorProto.BFLOAT16))


def emulated(graph: bytes) -> bytes:
    """A float32 graph that computes what the half-precision ``graph`` computes on hardware that
    multiplies halves and accumulates in float32, as tensor cores do.

    Every half-precision tensor becomes a float32 tensor that went through a cast to the half type
    and back. ONNX Runtime's CPU provider has no half-precision convolutions: handed ``graph``
    itself it refuses (bfloat16) or computes in float32 and may skip the rounding (float16).
    """
    model = parse(graph)
    types = _types(model)
    for tensor in model.graph.initializer:
        if tensor.data_type in _LARGEST:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        results = [name for name in node.output if types.get(name) in _LARGEST]
        if node.op_type == "Cast" and results:
            _set_cast(node, TensorProto.FLOAT)
        nodes.append(node)
        for name in results:
            kind = types[name]
            at = [*node.output].index(name)
            node.output[at] = f"{name}.exact"
            half = f"{name}.half"
            nodes.append(helper.make_node("Cast", [node.output[at]], [half], half, to=kind))
            nodes.append(
                helper.make_node("Cast", [half], [name], f"{name}.back", to=TensorProto.FLOAT)
            )
    _replace(model, nodes)
    return serialise(model)


def _retyped(model: ModelProto, kind: int) -> ModelProto:
    """``model`` with every float32 tensor of its body of type ``kind``, casts at the borders."""
    exact = exact_nodes(model)
    types = _types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    wanted: dict[str, set[int]] = {}  # of each float initialiser, the types its users want
    half_tensors = {
        name
        for node in model.graph.node
        if node.name not in exact
        for name in node.output
        if types.get(name) == TensorProto.FLOAT
    }
    nodes: list[NodeProto] = []
    cast: set[tuple[str, int]] = set()
    for node in model.graph.node:
        target = TensorProto.FLOAT if node.name in exact else kind
        if node.op_type == "Cast" and target == kind and node.output[0] in half_tensors:
            _set_cast(node, kind)
        for at, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT:
                continue
            if name in weights:
                wanted.setdefault(name, set()).add(target)
                node.input[at] = _weight_name(name, target)
                continue
            if (name in half_tensors) == (target == kind):
                continue
            other = f"{name}.{_suffix(target)}"
            if (name, target) not in cast:
                nodes.append(helper.make_node("Cast", [name], [other], other, to=target))
                cast.add((name, target))
            node.input[at] = other
        nodes.append(node)
    assert not outputs & half_tensors, "the exit of the graph is float32"
    _replace(model, nodes)
    kept = [
        tensor if target == TensorProto.FLOAT else _as_half(tensor, target)
        for name, tensor in weights.items()
        for target in sorted(wanted.get(name, {TensorProto.FLOAT}))
    ]
    # Not `remove`: it would compare whole weights to find the one.
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _as_half(tensor: TensorProto, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if values.size and not float(np.abs(values).max()) <= _LARGEST[kind]:  # type: ignore[index]
        raise PrecisionError(f"The weights {tensor.name} are too large for {_suffix(kind)}.")
    dtype = np.float16 if kind == TensorProto.FLOAT16 else ml_dtypes.bfloat16
    return numpy_helper.from_array(values.astype(dtype), _weight_name(tensor.name, kind))


def _types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor of ``model``."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _replace(model: ModelProto, nodes: list[NodeProto]) -> None:
    """Give ``model`` other nodes; recorded types of tensors inside would contradict them."""
    del model.graph.value_info[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _set_cast(node: NodeProto, kind: int) -> None:
    attribute: AttributeProto = next(a for a in node.attribute if a.name == "to")
    attribute.i = kind


def _weight_name(name: str, kind: int) -> str:
    return name if kind == TensorProto.FLOAT else f"{name}.{_suffix(kind)}"


def _suffix(kind: int) -> str:
    names = {int(TensorProto.FLOAT): "fp32", int(TensorProto.FLOAT16): "fp16"}
    return names.get(kind, "bf16")
