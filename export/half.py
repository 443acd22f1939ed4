"""Make graphs whose body computes in float16 or bfloat16, for engines that use the graph's types.

TensorRT 11 has only strongly typed networks: exactly what is float16 in the graph runs as float16.
Input and outputs keep their types (uint8, float32). Entry, exit and every operation of
:data:`export.graph.EXACT_OPS` stay float32 (see :mod:`export.graph`). The masks of AlexNet's maps
are comparisons with zero, so they lose nothing.
"""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.errors import PrecisionError
from export.graph import exact_nodes, fold, parse, serialise

#: The first opset whose Conv and pooling accept bfloat16.
_BFLOAT16_OPSET: Final = 22
_LARGEST: Final = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.3895e38}


def to_fp16(graph: bytes) -> bytes:
    """Convert the body of ``graph`` to float16.

    Raises:
        PrecisionError: a weight is too large for float16.
    """
    return serialise(_convert(fold(graph), TensorProto.FLOAT16))


def to_bf16(graph: bytes) -> bytes:
    """Convert the body of ``graph`` to bfloat16, and the graph to opset 22."""
    model = fold(graph)
    # Between opsets 20 and 22, the operations used here changed only in the types they accept.
    model.opset_import[0].version = max(_BFLOAT16_OPSET, model.opset_import[0].version)
    return serialise(_convert(model, TensorProto.BFLOAT16))


def emulate(graph: bytes) -> bytes:
    """Make a float32 graph that computes what the half-precision ``graph`` computes on tensor
    cores, which multiply half-precision values and accumulate in float32.

    Every half-precision tensor becomes a float32 tensor that is cast to the half type and back.
    This is needed because ONNX Runtime has no half-precision convolutions on the CPU: it refuses
    bfloat16, and computes float16 in float32, where it may skip the rounding.
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


def _convert(model: ModelProto, kind: int) -> ModelProto:
    """Convert every float32 tensor in the body of ``model`` to ``kind``, with casts around it."""
    exact = exact_nodes(model)
    types = _types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    wanted: dict[str, set[int]] = {}  # for each float initialiser, the types that its users need
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
    assert not outputs & half_tensors, "the exit of the graph must be float32"
    _replace(model, nodes)
    kept = [
        tensor if target == TensorProto.FLOAT else _as_half(tensor, target)
        for name, tensor in weights.items()
        for target in sorted(wanted.get(name, {TensorProto.FLOAT}))
    ]
    # `remove` is not used, because it would compare whole weights.
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
    """Replace the nodes of ``model``, and drop the recorded types, which may not fit them."""
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
