"""Calibration and operating points, from the validation split only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from hilum.labels import HeadKind
from hilum.package import Calibration, OperatingPoint

FloatArray = npt.NDArray[np.floating]
_EPS = 1e-7


def fit(raw: FloatArray, targets: FloatArray, kind: HeadKind) -> Calibration:
    """Platt scaling of each label (Platt 1999), or one temperature for exclusive classes.

    Args:
        raw: probabilities of the graph ``[N, K]``.
        targets: ``[N, K]``, NaN = not known.
        kind: of the head.

    A label that has only one class here keeps its probabilities as they are; so does one whose
    fitted slope is not positive, which would turn the ranking round.
    """
    count = raw.shape[1]
    scale, shift = [1.0] * count, [0.0] * count
    if kind == "multi_class":
        temperature = _temperature(raw, targets)
        return Calibration(scale=(1 / temperature,) * count, shift=tuple(shift))
    logit = np.log(np.clip(raw, _EPS, 1)) - np.log(np.clip(1 - raw, _EPS, 1))
    for k in range(count):
        known = ~np.isnan(targets[:, k])
        if len(np.unique(targets[known, k])) != 2:
            continue
        fitted = LogisticRegression(C=1e4).fit(logit[known, k : k + 1], targets[known, k] > 0.5)
        slope = float(fitted.coef_[0, 0])
        if slope > 0:
            scale[k], shift[k] = slope, float(fitted.intercept_[0])
    return Calibration(scale=tuple(scale), shift=tuple(shift))


def operating_point(target: FloatArray, probability: FloatArray) -> OperatingPoint:
    """The threshold with the largest sensitivity + specificity (Youden 1950).

    A label with one class only gets the threshold 1: nothing is reported on no evidence.
    """
    known = ~np.isnan(target)
    if len(np.unique(target[known])) != 2:
        return OperatingPoint(threshold=1.0, rule="undefined on validation")
    fpr, tpr, thresholds = roc_curve(target[known] > 0.5, probability[known])
    # Without the first, which is infinite and calls nothing positive.
    best = int(np.argmax(tpr[1:] - fpr[1:])) + 1
    return OperatingPoint(
        threshold=float(np.clip(thresholds[best], 0, 1)),
        rule="youden",
        sensitivity=float(tpr[best]),
        specificity=float(1 - fpr[best]),
    )


def _temperature(raw: FloatArray, targets: FloatArray) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017), on a fine grid."""
    known = ~np.isnan(targets).any(axis=1)
    if not known.any():
        return 1.0
    log_p = np.log(np.clip(raw[known], _EPS, 1))
    best, least = 1.0, np.inf
    for temperature in np.geomspace(0.2, 5, 161):
        scaled = log_p / temperature
        normed = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        loss = -float(np.mean(np.sum(targets[known] * normed, axis=1)))
        if loss < least:
            best, least = float(temperature), loss
    return best
