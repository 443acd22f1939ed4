"""Measure how far the outputs of two engines or graphs differ on the same films."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hilum.packages.findings import calibrate
from hilum.packages.labels import LabelSchema
from hilum.packages.manifest import Calibration, OperatingPoint
from trainer.data import SplitFilms
from trainer.evaluation.bootstrap import Bootstrap, interval
from trainer.evaluation.figures import mean_defined
from trainer.evaluation.ranking import Ranking, whole
from trainer.evaluation.scorer import Run

FloatArray = npt.NDArray[np.floating]


def differences(found: Run, reference: Run) -> dict[str, float]:
    """Maximum and 99th percentile of |Δp| over films and labels, and of |Δcam| over films, labels
    and cells. Maps are divided by the largest value among all maps of their film."""
    p = np.abs(found.raw - reference.raw)
    scale = np.maximum(reference.cam.max(axis=(1, 2, 3), keepdims=True), 1e-12)
    cam = np.abs(found.cam - reference.cam) / scale
    return {
        "max_dp": float(p.max()),
        "p99_dp": float(np.percentile(p, 99)),
        "max_dcam": float(cam.max()),
        "p99_dcam": float(np.percentile(cam, 99)),
    }


def decisions_changed(
    found: FloatArray,
    reference: FloatArray,
    schema: LabelSchema,
    calibration: Calibration,
    points: dict[str, OperatingPoint],
) -> int:
    """Count the calibrated probabilities that change sides of their threshold, over all films and
    labels of the raw outputs ``[N, K]``."""
    threshold = np.array([points[label].threshold for label in schema.labels])
    raw = (np.asarray(found, np.float32), np.asarray(reference, np.float32))
    ours, theirs = (calibrate(values, calibration, schema.kind) >= threshold for values in raw)
    return int((ours != theirs).sum())


def auroc_loss(
    found: FloatArray,
    reference: FloatArray,
    films: SplitFilms,
    schema: LabelSchema,
    *,
    replicates: int = 500,
) -> dict[str, Any]:
    """AUROC of ``reference`` minus AUROC of ``found``, both raw outputs ``[N, K]`` on ``films``.

    Given for each label and as the mean over the findings, with 95 % intervals from resampling
    patients. Both use the same samples. ``None`` where a label has only one class.
    """
    targets = films.targets
    pairs = [
        (Ranking(targets[:, k], found[:, k]), Ranking(targets[:, k], reference[:, k]))
        for k in range(len(schema.labels))
    ]

    def loss(weights: npt.NDArray[np.float32]) -> FloatArray:
        """``[b, K + 1]``: the loss of each label, then the macro loss."""
        each = np.stack(
            [theirs.areas(weights)[:, 0] - ours.areas(weights)[:, 0] for ours, theirs in pairs],
            axis=1,
        )
        chosen = each[:, [schema.labels.index(label) for label in schema.findings]]
        return np.concatenate([each, mean_defined(chosen)[:, None]], axis=1)

    points = loss(whole(len(targets)))[0]
    patients = [record.patient for record in films.records]
    samples = Bootstrap(replicates=replicates).samples(patients, loss)
    rows = [
        {"loss": None if np.isnan(value) else float(value), "interval": interval(samples[:, n])}
        for n, value in enumerate(points)
    ]
    return {"macro": rows[-1], "labels": dict(zip(schema.labels, rows[:-1], strict=True))}
