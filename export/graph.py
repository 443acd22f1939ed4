"""Find the parts of a graph whose precision can be reduced.

A graph from :func:`export.onnx.export` has three parts. *Entry*: uint8 to normalised floats.
*Body*: the backbone, with nearly all of the arithmetic. *Exit*: the last weighted layer before each
output and everything after it, that is the logits and the Grad-CAM sums over channels and cells.
Entry and exit are small and need the full precision (255 × scale, weights divided by the number of
cells, sums), so they always stay float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import onnx
import onnxscript.optimizer
from onnx import ModelProto, NodeProto
from onnxscript import ir

WEIGHTED: Final = ("Conv", "Gemm", "MatMul")
#: Operations that stay float32 everywhere: they saturate, divide, or sum many values.
EXACT_OPS: Final = frozenset(
    ("Sigmoid", "Softmax", "Clip", "Div", "ReduceMax", "ReduceMean", "ReduceSum", "Resize")
)
_FOLD_LIMIT: Final = 2**28  # number of values; no weight has as many
_GRADIENT: Final = "gradient"


def parse(graph: bytes) -> ModelProto:
    """Parse ``graph``, and give every node a name."""
    model = onnx.load_model_from_string(graph)
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{position}"
    return model


def serialise(model: ModelProto) -> bytes:
    """Check ``model`` with onnx's own checker, and serialise it."""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def fold(graph: bytes) -> ModelProto:
    """Compute in float32 everything in ``graph`` that depends on weights alone. AlexNet's weights
    are summed over cells, for example, which would lose precision later."""
    model = ir.serde.deserialize_model(parse(graph))
    onnxscript.optimizer.fold_constants(
        model, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT
    )
    onnxscript.optimizer.remove_unused_nodes(model)
    return parse(ir.serde.serialize_model(model).SerializeToString())


def exact_nodes(model: ModelProto) -> set[str]:
    """Names of the nodes that stay float32: entry, exit and :data:`EXACT_OPS`."""
    producer = {name: node for node in model.graph.node for name in node.output}
    exact = {node.name for node in model.graph.node if node.op_type in EXACT_OPS}
    waiting = [output.name for output in model.graph.output]
    while waiting:  # from the outputs back to the first weighted layer
        node = producer.get(waiting.pop())
        if node is None:
            continue
        exact.add(node.name)
        if node.op_type not in WEIGHTED:
            waiting.extend(node.input)
    weights = {tensor.name for tensor in model.graph.initializer}
    before = {entry.name for entry in model.graph.input}
    for node in model.graph.node:  # from the image to the first weighted layer
        reached = before.intersection(node.input) and {*node.input} <= before | weights
        if reached and node.op_type not in WEIGHTED:
            before.update(node.output)
            exact.add(node.name)
    return exact


def layers(model: ModelProto) -> dict[str, str]:
    """Weighted layers that are not in :func:`exact_nodes`: the name of the node, and the name of
    its layer in the PyTorch model (``features.4.0.conv1``)."""
    exact = exact_nodes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: _layer_name(node, weights)
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.name not in exact
    }


def _layer_name(node: NodeProto, weights: Iterable[str]) -> str:
    name = next((name for name in node.input if name in weights), node.name)
    name = name.removeprefix("model.").removesuffix(".weight")
    # AlexNet's gradient uses the weights of a layer that also has a forward pass.
    return f"{name} ({_GRADIENT})" if node.op_type == "MatMul" else name


@contextmanager
def mute(logger: str | None = None) -> Iterator[None]:
    """Keep the warnings of ``logger`` (``None``: the root logger) from the terminal."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)
