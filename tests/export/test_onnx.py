"""The exported graph computes what PyTorch computes, for any batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.backbones import DISTINCT, LABELS, images, model

from export import onnx as exporting
from export.errors import ExportError
from trainer.backbones import BACKBONES
from trainer.gradcam import WithMaps

Graphs = Callable[[str], bytes]


@pytest.mark.parametrize("name", DISTINCT)
def test_onnx_runtime_equals_pytorch_and_batches_do_not_matter(
    name: str, backbone_graph: Graphs
) -> None:
    graph = backbone_graph(name)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    image = images(name, 3, seed=11)
    with torch.no_grad():
        expected = [t.numpy() for t in WithMaps(model(name), "multi_label")(image)]
    together = session.run(["probability", "cam"], {"image": image.numpy()})
    for found, wanted in zip(together, expected, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        assert np.abs(found - wanted).max() / scale <= 1e-4
    alone = session.run(["probability", "cam"], {"image": image[1:2].numpy()})
    for found, wanted in zip(alone, together, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        assert np.abs(found - wanted[1:2]).max() / scale <= 1e-5
    grid = BACKBONES[name].grid
    assert together[0].shape == (3, LABELS)
    assert together[1].shape == (3, LABELS, grid, grid)
    assert (together[1] >= 0).all()


def test_signature_is_the_contract(backbone_graph: Graphs) -> None:
    parsed = onnx.load_model_from_string(backbone_graph("resnet18"))
    onnx.checker.check_model(parsed)

    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        return value.name, tensor.elem_type, dims

    (entry,) = parsed.graph.input
    assert described(entry) == ("image", onnx.TensorProto.UINT8, ["batch", 1, 224, 224])
    assert [described(value) for value in parsed.graph.output] == [
        ("probability", onnx.TensorProto.FLOAT, ["batch", LABELS]),
        ("cam", onnx.TensorProto.FLOAT, ["batch", LABELS, 7, 7]),
    ]


def test_half_precision_weights_halve_the_file_and_little_else(backbone_graph: Graphs) -> None:
    whole = backbone_graph("resnet18")
    half = exporting.store_in_half(whole)
    assert len(half) < 0.52 * len(whole)
    image = images("resnet18", 2).numpy()
    outputs = [
        onnxruntime.InferenceSession(g, providers=["CPUExecutionProvider"]).run(
            ["probability", "cam"], {"image": image}
        )
        for g in (whole, half)
    ]
    assert np.abs(outputs[0][0] - outputs[1][0]).max() <= 5e-3
    assert outputs[1][0].dtype == np.float32


def test_a_graph_that_says_something_else_is_refused(backbone_graph: Graphs) -> None:
    parsed = onnx.load_model_from_string(backbone_graph("resnet18"))
    bias = next(t for t in parsed.graph.initializer if t.name.endswith("linear.bias"))
    changed = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    with pytest.raises(ExportError, match="differ by"):
        exporting.check_parity(
            parsed.SerializeToString(), model("resnet18"), "multi_label", size=224
        )
