"""Exported graphs of the backbones, in every precision, go through the real parser and builder.

TensorRT-RTX on the CPU stands for TensorRT: same parser, same interface; its plans are its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import onnx
import pytest
from support import backbones

from export.half import to_bf16, to_fp16
from export.int8 import calibrate, quantise
from hilum.engines import Signature
from hilum.engines.tensorrt.build import build
from hilum.engines.tensorrt.record import BuildOptions
from trainer.backbones import BACKBONES

# All ResNets have the same kinds of layers: the smallest stands for them.
NAMES = ("alexnet", "inception_v3", "resnet18")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
OPTIONS = BuildOptions(profile=(1, 2, 2), optimization_level=0)


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    """A plan takes many times its size on the way."""
    yield
    gc.collect()


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_exported_graph_parses_and_builds(
    name: str, precision: str, backbone_graph: Callable[[str], bytes]
) -> None:
    graph = graph_in(backbone_graph(name), name, precision)
    built = build(graph, promised(name, graph), OPTIONS)
    assert len(built.plan) > 0.9 * smallest_size(graph)


def graph_in(graph: bytes, name: str, precision: str) -> bytes:
    if precision == "int8":
        films = backbones.images(name, 1).numpy()  # ranges of one film: nobody reads the numbers
        return quantise(calibrate(graph, films), target="tensorrt")
    return {"fp32": bytes, "fp16": to_fp16, "bf16": to_bf16}[precision](graph)


def promised(name: str, graph: bytes) -> Signature:
    side = BACKBONES[name].native_size
    cam = next(o for o in onnx.load_from_string(graph).graph.output if o.name == "cam")
    grid = tuple(d.dim_value for d in cam.type.tensor_type.shape.dim[2:])
    labels = backbones.LABELS
    return Signature(
        inputs={"image": ("uint8", (-1, 1, side, side))},
        outputs={"probability": ("float32", (-1, labels)), "cam": ("float32", (-1, labels, *grid))},
    )


def smallest_size(graph: bytes) -> int:
    """Bytes of the weights in ``graph``: a plan without them would run nothing."""
    return sum(len(t.raw_data) for t in onnx.load_from_string(graph).graph.initializer)
