"""Make a model package from the weights of torchxrayvision's ResNet-50 for 512 px.

``resnet50-res512-all`` of torchxrayvision 1.5.7 (Cohen et al., MIDL 2022) has one grey channel in
[-1024, 1024] and eighteen outputs with independent sigmoids, two of which were not trained and have
no operating point. Its forward pass maps the operating points to 0.5. The package keeps the plain
sigmoid and the operating points, so it gives the same findings.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision import models

from export import card
from export.errors import ExportError
from export.onnx import export as export_graph
from export.package import Identity, fields
from export.writing import check_target, replacing, write_golden
from hilum import dicom
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.packages.labels import LabelSchema
from hilum.packages.load import seal, verify
from hilum.packages.manifest import (
    CARD,
    GOLDEN,
    GRAPH,
    METRICS,
    Calibration,
    Manifest,
    OperatingPoint,
)
from hilum.settings import Limits
from trainer import weights
from trainer.backbones import Classifier, Normalise, PooledHead, resnet_features
from trainer.checkpoint import code_revision
from trainer.errors import WeightsMissingError

SOURCE: Final = "torchxrayvision 1.5.7, resnet50-res512-all"
LICENCE: Final = "Apache-2.0 (torchxrayvision); its training sets have their own terms"
# All outputs in order, with their operating points. NaN: the label was not trained.
OUTPUTS: Final = {
    row["output"]: float(row["operating_point"] or "nan")
    for row in csv.DictReader(
        resources.files(__package__).joinpath("xrv.csv").read_text("utf-8").splitlines()
    )
}
THRESHOLDS: Final = {label: point for label, point in OUTPUTS.items() if not math.isnan(point)}
SCHEMA: Final = LabelSchema(
    schema_id="torchxrayvision-all-v1", kind="multi_label", labels=tuple(THRESHOLDS)
)
# Stretched from the minimum to the maximum of the film, as torchxrayvision reads DICOM.
SPEC: Final = PreprocessSpec(size=512, stretch_percentiles=(0.0, 100.0))
_GOLDEN_FILMS: Final = 3


def build(source: Path, target: Path, identity: Identity, *, films: Path) -> Manifest:
    """Write the package of the weights file ``source`` to the folder ``target``, completely or not
    at all.

    Args:
        source: a state dict, as torchxrayvision publishes it, or of its ``ResNet`` module.
        target: replaced if it exists.
        films: a file or folder. The first readable films become the inputs of the golden outputs.

    Raises:
        WeightsMissingError: the file does not exist, or is not a state dict.
        ExportError: the weights belong to another model, the graph does not reproduce the model,
            there is no film, or ``target`` is neither empty nor a package.
        WriteError: the disk is full, or ``target`` cannot be written.
    """
    check_target(target)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise WeightsMissingError(
            f"The weights {source} cannot be read ({error.strerror or type(error).__name__}).",
            next_step="Download them first; torchxrayvision's documentation says where.",
        ) from None
    model = classifier(weights.parse(data, str(source)))
    images = golden_images(films)
    graph = export_graph(model, SCHEMA.kind, size=SPEC.size)
    digest = hashlib.sha256(data).hexdigest()
    with replacing(target) as folder:
        (folder / GRAPH).write_bytes(graph)
        return _fill(folder, identity, digest, images)


def classifier(state: dict[str, Tensor]) -> Classifier:
    """Load the model of torchxrayvision's ``state``, without the labels that were not trained.

    Raises:
        ExportError: the weights belong to another model.
    """
    net = models.resnet50(weights=None, num_classes=len(OUTPUTS))
    net.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    plain = {
        name.removeprefix("model."): value for name, value in state.items() if name != "op_threshs"
    }
    try:
        net.load_state_dict(plain)
    except RuntimeError:
        raise ExportError(
            f"The file does not hold the weights of {SOURCE}.",
            next_step="Use the file of resnet50-res512-all. Other models are not supported.",
        ) from None
    rows = [n for n, label in enumerate(OUTPUTS) if label in THRESHOLDS]
    head = PooledHead(net.fc.in_features, len(rows))
    with torch.no_grad():
        head.linear.weight.copy_(net.fc.weight[rows])
        head.linear.bias.copy_(net.fc.bias[rows])
    # uint8 0 … 255 to -1024 … 1024.
    normalise = Normalise(mean=(0.5,), std=(1 / 2048,))
    return Classifier("resnet50", resnet_features(net), head, None, normalise).eval()


def golden_images(films: Path) -> npt.NDArray[np.uint8]:
    """Model inputs, uint8 ``[N, 1, 512, 512]``, of the first readable films at ``films``.

    Raises:
        ExportError: there is no readable film.
    """
    paths = sorted(films.rglob("*")) if films.is_dir() else [films]
    images = []
    for path in paths:
        try:
            opened = dicom.open_film(path.read_bytes(), Limits())
            images.append(model_input(opened, SPEC).image)
        except (OSError, HilumError):
            continue  # other files in the folder
        if len(images) == _GOLDEN_FILMS:
            break
    if not images:
        raise ExportError(
            f"There is no readable film at {films}.",
            next_step="Give a film with --films. The golden outputs need one.",
        )
    return np.stack(images)


def _fill(folder: Path, identity: Identity, digest: str, images: npt.NDArray[np.uint8]) -> Manifest:
    """Write everything beside the graph. It is first sealed as a draft, so that it can be run."""
    count = len(SCHEMA.labels)
    # The data is not available, so the digest of the weights file stands for it.
    known = fields(identity, SCHEMA, SPEC, "resnet50", digest) | {
        "code_revision": code_revision(),
        "cam_grid": (16, 16),
        "calibration": Calibration(scale=(1.0,) * count, shift=(0.0,) * count),
        "operating_points": {
            label: OperatingPoint(threshold=point, rule="torchxrayvision op_threshs")
            for label, point in THRESHOLDS.items()
        },
    }
    figures = {
        "notice": None,
        "source": SOURCE,
        "weights_sha256": digest,
        "test": None,
        "measured": "Nothing: hilum has no films on which to measure this model.",
    }
    (folder / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
    values = {"source": SOURCE, "digest": digest, "thresholds": THRESHOLDS}
    (folder / CARD).write_text(card.write("xrv_card.md", identity=identity, **values))
    (folder / GOLDEN).write_bytes(b"draft")
    seal(folder, **known)
    write_golden(folder / GOLDEN, images, OnnxRuntimeEngine(verify(folder)))
    return seal(folder, **known)
