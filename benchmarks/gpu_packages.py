"""Packages with random weights, for measuring engines without a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.half import emulate, to_bf16, to_fp16
from export.int8 import calibrate, quantise
from export.onnx import OPSET, export
from export.session import Session
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import CHESTXRAY14
from hilum.packages.load import Package, seal, verify
from hilum.packages.manifest import CARD, GOLDEN, GRAPH, METRICS, InputSpec, Precision, Variant
from trainer.backbones import BACKBONES, Classifier, build

UInt8Array = npt.NDArray[np.uint8]
# |Δp|, and |Δcam| relative to the largest value, between TensorRT and ONNX Runtime on the CPU on
# the same graph: only the order and width of sums differ.
TOLERANCE: dict[Precision, tuple[float, float]] = {
    "fp32": (1e-3, 1e-2),
    "fp16": (5e-3, 5e-2),
    "bf16": (2e-2, 2e-1),
    "int8": (5e-2, 3e-1),
}


def films(size: int, count: int, seed: int = 0) -> UInt8Array:
    """Smooth random films, uint8 ``[count, 1, S, S]``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 1, 12, 12), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8).numpy()


def reference(
    graph: bytes, precision: Precision, images: UInt8Array
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Probabilities and maps that a GPU should find, from ONNX Runtime on the CPU, with emulated
    half precision (the CPU has no such convolutions) and exact int8 sums."""
    half = precision in ("fp16", "bf16")
    session = Session(emulate(graph) if half else graph, as_written=precision == "int8")
    found = session.run(images)
    return found.probability, found.cam


def classifier(backbone: str, seed: int = 0) -> Classifier:
    """``backbone`` with random weights and activations as large as trained ones: those of a new
    network vanish, or grow from layer to layer beyond the range of float16."""
    torch.manual_seed(seed)
    model = build(backbone, len(CHESTXRAY14.labels))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # use the statistics of the films below
            torch.nn.init.constant_(
                module.bias, 1.0
            )  # ReLU then removes few values, and rounding errors stay small
        last = getattr(module, "bn3", None) or getattr(module, "bn2", None)
        if isinstance(last, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(last.weight, 0.2)  # the last normalisation of a residual branch
    with torch.no_grad():
        model.train()(torch.from_numpy(films(BACKBONES[backbone].native_size, 4)))
    return model.eval()


def make(
    folder: Path,
    backbone: str,
    precision: Precision,
    *,
    seed: int = 0,
    size: int | None = None,
    max_batch: int = 16,
) -> Package:
    """Make a package of ``backbone`` with random weights and a TensorRT graph in ``precision``."""
    model = classifier(backbone, seed)
    side = size or BACKBONES[backbone].native_size
    graph = export(model, "multi_label", size=side)
    other = {
        "fp32": lambda: graph,
        "fp16": lambda: to_fp16(graph),
        "bf16": lambda: to_bf16(graph),
        "int8": lambda: quantise(calibrate(graph, films(side, 4)), target="tensorrt"),
    }[precision]()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_bytes(graph)
    (folder / "model.tensorrt.onnx").write_bytes(other)
    (folder / CARD).write_text("# random weights\n\nFor measuring engines.\n")
    (folder / METRICS).write_text(json.dumps({"note": "not trained"}) + "\n")
    images = films(side, 3, seed=1)
    kinds: tuple[tuple[str, bytes, Precision], ...] = (
        (GOLDEN, graph, "fp32"),
        ("golden.tensorrt.npz", other, precision),
    )
    for name, content, kind in kinds:
        probability, cam = reference(content, kind, images)
        np.savez(folder / name, image=images, probability=probability, cam=cam)
    _seal(folder, backbone, precision, side, cam.shape[2:], seed, max_batch)
    return verify(folder)


def _seal(
    folder: Path,
    backbone: str,
    precision: Precision,
    side: int,
    grid: tuple[int, ...],
    seed: int,
    max_batch: int,
) -> None:
    labels = CHESTXRAY14
    tolerance, cam_tolerance = TOLERANCE[precision]
    variant = Variant(
        target="tensorrt",
        precision=precision,
        graph="model.tensorrt.onnx",
        golden="golden.tensorrt.npz",
        tolerance=tolerance,
        cam_tolerance=cam_tolerance,
    )
    count = len(labels.labels)
    seal(
        folder,
        name=f"random-{backbone.replace('_', '-')}",
        version=f"{seed}.0.0",
        backbone=backbone,
        label_set={
            "schema_id": labels.id,
            "kind": labels.kind,
            "labels": labels.labels,
            "normal": labels.normal,
        },
        input=InputSpec(size=side, max_batch=max_batch),
        cam_grid=grid,
        preprocess=PreprocessSpec(size=side),
        calibration={"scale": (1.0,) * count, "shift": (0.0,) * count},
        operating_points={label: {"threshold": 0.5, "rule": "none"} for label in labels.labels},
        demonstration_only=True,
        intended_use="Measuring engines.",
        licence="Apache-2.0",
        training_data_digest="0" * 64,
        code_revision="benchmark",
        opset=OPSET,
        weights_dtype="float32",
        variants=(variant,),
    )
