"""Figures of probabilities. A figure that is not defined is ``None``, never 0 or 1.

A label is known if it is 0 or 1. Anything else (NaN, or an uncertain label in between) is left
out. Intervals are in :mod:`trainer.evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from trainer.arrays import BoolArray, FloatArray


def auroc(target: FloatArray, score: FloatArray) -> float | None:
    """Area under the ROC curve; ``None`` if one of the two classes is absent."""
    known = known_mask(target)
    if len(np.unique(target[known])) != 2:
        return None
    return float(roc_auc_score(target[known], score[known]))


def brier(target: FloatArray, probability: FloatArray) -> float | None:
    """Mean squared error of the probability."""
    known = known_mask(target)
    return float(np.mean((probability[known] - target[known]) ** 2)) if known.any() else None


def calibration_error(target: FloatArray, probability: FloatArray, bins: int = 15) -> float | None:
    """Expected calibration error over ``bins`` bins of equal width (Guo et al. 2017, eq. 3)."""
    known = known_mask(target)
    if not known.any():
        return None
    found = reliability(target, probability, bins)
    total = sum(part.films for part in found)
    return sum(abs(part.probability - part.frequency) * part.films / total for part in found)


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Films whose probability lies in one bin."""

    low: float
    high: float
    films: int
    probability: float  # mean
    frequency: float  # share of films that have the finding


def reliability(
    target: FloatArray, probability: FloatArray, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve over ``bins`` bins of equal width; empty bins are left out."""
    known = known_mask(target)
    t, p = target[known].astype(np.float64), probability[known].astype(np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            low=float(b / bins),
            high=float((b + 1) / bins),
            films=int(np.sum(place == b)),
            probability=float(p[place == b].mean()),
            frequency=float(t[place == b].mean()),
        )
        for b in np.unique(place)
    )


def mean_defined(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined; ``None`` if none is."""
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def known_mask(target: FloatArray) -> BoolArray:
    """Which labels are known."""
    return np.asarray((target == 0) | (target == 1))
