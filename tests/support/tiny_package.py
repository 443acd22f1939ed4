"""A small, real model package for tests: a real ONNX graph, really sealed.

The graph averages the image over an h×w grid and gives each label a fixed weight on it, so its
answers depend on the image, are the same everywhere, and take no time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC, LabelSchema
from hilum.packages.load import Package, parse_manifest, seal, verify
from hilum.packages.manifest import (
    CARD,
    GOLDEN,
    GRAPH,
    MANIFEST,
    METRICS,
    Calibration,
    InputPolicy,
    InputSpec,
    Manifest,
    OperatingPoint,
    PixelPolicy,
)

GRID = (4, 4)


def graph(size: int = 64, labels: LabelSchema = SYNTHETIC) -> onnx.ModelProto:
    """``image`` uint8 [N,1,S,S] -> ``probability`` float32 [N,K], ``cam`` float32 [N,K,4,4]."""
    count = len(labels.labels)
    weights = np.linspace(-6, 6, count, dtype=np.float32).reshape(count, 1, 1, 1)
    bias = np.linspace(2, -2, count, dtype=np.float32)
    normalise = "Sigmoid" if labels.kind == "multi_label" else "Softmax"
    cell = [size // GRID[0], size // GRID[1]]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full_scale"], ["unit"]),
        helper.make_node("AveragePool", ["unit"], ["grid"], kernel_shape=cell, strides=cell),
        helper.make_node("Conv", ["grid", "weights", "bias"], ["map"]),
        helper.make_node("Relu", ["map"], ["cam"]),
        helper.make_node("ReduceMean", ["map", "space"], ["logit"], keepdims=0),
        helper.make_node(normalise, ["logit"], ["probability"]),
    ]
    constants = {
        "full_scale": np.array(255, dtype=np.float32),
        "weights": weights,
        "bias": bias,
        "space": np.array([2, 3], dtype=np.int64),
    }
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, size, size])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", count]),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", count, *GRID]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(body, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model)
    return model


def build(
    folder: Path, *, size: int = 64, labels: LabelSchema = SYNTHETIC, **fields: Any
) -> Manifest:
    """Write and seal a package in ``folder`` (made if missing).

    ``fields`` replace those of the manifest, for example ``demonstration_only=False`` or
    ``operating_points=…``; by default every threshold is 0.5 and the calibration changes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = graph(size, labels).SerializeToString()
    (folder / GRAPH).write_bytes(model)
    (folder / CARD).write_text("# tiny\n\nA graph for hilum's tests; its numbers mean nothing.\n")
    (folder / METRICS).write_text(json.dumps({"note": "not trained"}) + "\n")
    image = np.random.default_rng(0).integers(0, 256, (2, 1, size, size), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    probability, cam = session.run(["probability", "cam"], {"image": image})
    np.savez(folder / GOLDEN, image=image, probability=probability, cam=cam)
    count = len(labels.labels)
    defaults: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "backbone": "resnet18",
        "label_set": labels,
        "input": InputSpec(size=size),
        "cam_grid": GRID,
        "preprocess": PreprocessSpec(size=size),
        # Its films are noise.
        "policy": InputPolicy(pixels=PixelPolicy.nothing()),
        "calibration": Calibration(scale=(1.0,) * count, shift=(0.0,) * count),
        "operating_points": {
            label: OperatingPoint(threshold=0.5, rule="fixed") for label in labels.labels
        },
        "demonstration_only": True,
        "intended_use": "Tests of hilum.",
        "licence": "Apache-2.0",
        "training_data_digest": "0" * 64,
        "code_revision": "test",
        "opset": 18,
        "weights_dtype": "float32",
    }
    return seal(folder, **{**defaults, **fields})


def resealed(folder: Path, **changes: Any) -> Package:
    """The package in ``folder`` with the digests of what is in it now, and ``changes`` of its
    manifest."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    fields: dict[str, Any] = {name: getattr(manifest, name) for name in Manifest.model_fields}
    del fields["files"], fields["format"]
    seal(folder, **{**fields, **changes})
    return verify(folder)
