"""What the exported graph is worth: run by the serving engine on held-out films.

Everything here is measured on the file that ships, not on the checkpoint it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.engines import Engine
from hilum.findings import calibrate
from hilum.labels import LabelSchema
from hilum.package import Calibration, OperatingPoint
from trainer import metrics
from trainer.data import Prepared

FloatArray = npt.NDArray[np.float32]
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Run:
    """The graph's outputs on a split."""

    raw: FloatArray  # [N, K]
    cam: FloatArray  # [N, K, h, w]


def run(engine: Engine, split: Prepared) -> Run:
    """Run every image of ``split``."""
    outputs = [engine.run(np.array(images)) for images in _batches(split.images)]
    return Run(
        raw=np.concatenate([output.probability for output in outputs]),
        cam=np.concatenate([output.cam for output in outputs]),
    )


def report(
    found: Run,
    split: Prepared,
    schema: LabelSchema,
    calibration: Calibration,
    points: dict[str, OperatingPoint],
) -> dict[str, Any]:
    """The figures of ``metrics.json``: per label and macro over the findings (without the label
    that means «normal»). What is not defined is null."""
    probability = calibrate(found.raw, calibration, schema.kind)
    labels = {
        label: {
            **_figures(split.targets[:, k], probability[:, k], points[label]),
            **_pointing(label, found.cam[:, k], split),
        }
        for k, label in enumerate(schema.labels)
    }
    findings = [labels[label] for label in schema.findings]
    names = ("auroc", "average_precision", "ece", "brier", "pointing_game", "pointing_centre")
    return {
        "images": len(split),
        "patients": len({record.patient for record in split.records}),
        "macro_over": list(schema.findings),
        "macro": {
            name: metrics.mean_defined([figures[name] for figures in findings]) for name in names
        },
        "labels": labels,
    }


def _figures(target: FloatArray, probability: FloatArray, point: OperatingPoint) -> dict[str, Any]:
    called = probability >= point.threshold
    positive, negative = target > 0.5, target < 0.5
    return {
        "images": int((~np.isnan(target)).sum()),
        "positives": int(positive.sum()),
        "auroc": metrics.auroc(target, probability),
        "average_precision": metrics.average_precision(target, probability),
        "ece": metrics.calibration_error(target, probability),
        "brier": metrics.brier(target, probability),
        "threshold": point.threshold,
        "sensitivity": float(called[positive].mean()) if positive.any() else None,
        "specificity": float((~called[negative]).mean()) if negative.any() else None,
    }


def _pointing(label: str, cam: FloatArray, split: Prepared) -> dict[str, Any]:
    boxes = [[box for box in record.boxes if box.label == label] for record in split.records]
    rows = [n for n, found in enumerate(boxes) if found]
    played = metrics.pointing_game(
        [cam[n] for n in rows],
        [boxes[n] for n in rows],
        [(int(split.sizes[n][0]), int(split.sizes[n][1])) for n in rows],
        size=split.images.shape[-1],
    )
    return {
        "pointing_images": played.images if played else 0,
        "pointing_game": played.hits if played else None,
        "pointing_centre": played.centre if played else None,
    }


def _batches(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]
