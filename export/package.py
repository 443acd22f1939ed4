"""Make a model package from a checkpoint, with calibration, thresholds, figures, golden outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import card, int8, precision, validation_outputs, variants
from export.onnx import OPSET, WeightsDtype, store_in_half
from export.onnx import export as export_graph
from export.writing import check_target, replacing, write_golden
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.findings import calibrate
from hilum.packages.labels import LabelSchema
from hilum.packages.load import seal, verify
from hilum.packages.manifest import (
    CARD,
    GOLDEN,
    GRAPH,
    METRICS,
    NOTICE,
    VALIDATION,
    Calibration,
    Manifest,
    OperatingPoint,
    Precision,
    Target,
)
from hilum.storage import ObjectStore
from trainer import calibration as fitting
from trainer import data
from trainer.checkpoint import Checkpoint
from trainer.data import SplitFilms
from trainer.evaluation.assess import assess
from trainer.evaluation.scorer import run, scored
from trainer.manifest import Split

_GOLDEN_IMAGES = 3


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The fields of a package that do not come from the model."""

    name: str
    version: str
    intended_use: str
    licence: str
    demonstration_only: bool = False
    data: str = ""  # paragraph for the card
    training: str = ""  # paragraph for the card


@dataclass(frozen=True, kw_only=True)
class Precisions:
    """The variants that the package gets, beside the float32 graph."""

    wanted: Mapping[Target, Precision] = field(default_factory=dict)  # export.precision.parse
    films: int = precision.CALIBRATION_FILMS  # number of training films that calibrate int8
    method: int8.Method = "percentile"


def build(
    found: Checkpoint,
    target: Path,
    identity: Identity,
    *,
    cache_dir: Path,
    weights_dtype: WeightsDtype = "float32",
    manifest_path: Path | None = None,
    precisions: Precisions | None = None,
    store: ObjectStore | None = None,
) -> Manifest:
    """Write the package of ``found`` to the folder ``target``, completely or not at all.

    Args:
        target: replaced if it exists.
        cache_dir: the training cache.
        weights_dtype: type in which the float32 graph stores its weights.
        manifest_path: the data-set table, if it is not where the checkpoint's configuration says.
        precisions: variants to add; none by default.
        store: reads the films. ``None``: local files, and S3 with boto3's own configuration.

    Raises:
        ExportError: the graph does not reproduce the checkpoint, or ``target`` is a folder that is
            neither empty nor a package.
        PrecisionError: a variant loses too much.
        WriteError: the disk is full, or ``target`` cannot be written. Its content is unchanged.
        DataError: a split cannot be read.
    """
    check_target(target)
    config = found.record.config
    size = config.preprocess.size
    graph = export_graph(found.model, found.schema.kind, size=size)
    if weights_dtype == "float16":
        graph = store_in_half(graph)
    splits = data.load(
        manifest_path or config.manifest,
        found.schema,
        config.preprocess,
        cache_dir=cache_dir,
        max_bad_fraction=config.data.max_bad_fraction,
        store=store,
    )
    with replacing(target) as folder:
        (folder / GRAPH).write_bytes(graph)
        return _fill(folder, found, splits, identity, weights_dtype, precisions or Precisions())


def _fill(  # noqa: PLR0917 -- one call, every name the same on both sides
    folder: Path,
    found: Checkpoint,
    splits: dict[Split, SplitFilms],
    identity: Identity,
    weights_dtype: WeightsDtype,
    precisions: Precisions,
) -> Manifest:
    """Write everything beside the graph. The package is first sealed as a draft, so that the
    serving engine can run and measure it, and then with the measured figures."""
    schema = found.schema
    neutral = Calibration(scale=(1.0,) * len(schema.labels), shift=(0.0,) * len(schema.labels))
    undefined = OperatingPoint(threshold=1.0, rule="draft")
    config, digest = found.record.config, found.record.manifest_digest
    known = fields(
        identity, schema, config.preprocess, config.model.backbone, digest, weights_dtype
    ) | {"code_revision": found.record.code_revision}
    for name in (CARD, METRICS, GOLDEN):
        (folder / name).write_bytes(b"draft")
    seal(
        folder,
        **known,
        cam_grid=_grid(found),
        calibration=neutral,
        operating_points=dict.fromkeys(schema.labels, undefined),
    )
    engine = OnnxRuntimeEngine(verify(folder))

    validation, test = splits["val"], splits["test"]
    on_validation, on_test = (run(engine, split.images) for split in (validation, test))
    calibration = fitting.fit(on_validation.raw, validation.targets, schema.kind)
    calibrated = calibrate(on_validation.raw, calibration, schema.kind)
    points = fitting.operating_points(schema.labels, validation.targets, calibrated)
    validated, tested = (
        assess(scored(films, outputs, schema, calibration, points, chosen=True))
        for films, outputs in ((validation, on_validation), (test, on_test))
    )
    figures = {
        "notice": NOTICE if identity.demonstration_only else None,
        "validation": validated,
        "test": tested,
        "history": list(found.record.history),
    }
    (folder / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
    validation_outputs.write(
        folder / VALIDATION,
        raw=on_validation.raw,
        targets=validation.targets,
        patients=[record.patient for record in validation.records],
    )

    images = np.array(test.images[:_GOLDEN_IMAGES])
    write_golden(folder / GOLDEN, images, engine)
    measured = variants.Measured(
        splits=splits,
        validation=on_validation,
        test=on_test,
        calibration=calibration,
        points=points,
    )
    made = variants.add(folder, found, measured, precisions, golden_images=images)
    final = {
        **known,
        "cam_grid": on_test.cam.shape[2:],
        "calibration": calibration,
        "operating_points": points,
        "variants": made,
    }
    draft = seal(folder, **final)
    prose = {"data": identity.data, "training": identity.training}
    (folder / CARD).write_text(card.write("card.md", m=draft, test=tested, **prose))
    return seal(folder, **final)


def fields(  # noqa: PLR0917 -- one call each for the two kinds of package
    identity: Identity,
    schema: LabelSchema,
    preprocess: PreprocessSpec,
    backbone: str,
    data_digest: str,
    weights_dtype: WeightsDtype = "float32",
) -> dict[str, Any]:
    """The fields of the manifest that need no outputs of the graph."""
    return {
        "name": identity.name,
        "version": identity.version,
        "backbone": backbone,
        "label_set": schema,
        "input": {"size": preprocess.size},
        "preprocess": preprocess,
        "demonstration_only": identity.demonstration_only,
        "intended_use": identity.intended_use,
        "licence": identity.licence,
        "training_data_digest": data_digest,
        "opset": OPSET,
        "weights_dtype": weights_dtype,
    }


def _grid(found: Checkpoint) -> tuple[int, int]:
    """The size (h, w) of the Grad-CAM grid at the configured input size."""
    size = found.record.config.preprocess.size
    with torch.no_grad():
        shape = found.model.activation(torch.zeros((1, 1, size, size), dtype=torch.uint8)).shape
    return int(shape[2]), int(shape[3])
