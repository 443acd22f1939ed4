"""Calibration and operating points, from the validation split only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from hilum.errors import ConfigurationError
from hilum.packages.labels import HeadKind
from hilum.packages.manifest import Calibration, OperatingPoint
from trainer.metrics import known_mask

FloatArray = npt.NDArray[np.floating]
Method = Literal["platt", "temperature", "none"]
_EPS = 1e-7
_TEMPERATURES: Final = (0.05, 20.0)
_NO_PENALTY: Final = 1e12


def fit(
    raw: FloatArray, targets: FloatArray, kind: HeadKind, method: Method = "platt"
) -> Calibration:
    """Calibrate each label of a multi-label head; exclusive classes share one temperature.

    Args:
        raw: probabilities of the graph ``[N, K]``.
        targets: ``[N, K]``; a label that is neither 0 nor 1 is unknown.
        kind: of the head.
        method: ``platt`` fits slope and intercept of the logit (Platt 1999), which also corrects
            the prevalence that focal loss distorts. It fits them to Platt's smoothed targets, so
            that no probability becomes 0 or 1 where the films are separated without error.
            ``temperature`` fits the slope alone (Guo et al. 2017, section 4.2), for validation
            splits with few positives. ``none`` changes nothing.

    A label that has only one class here keeps its probabilities. So does a label whose fitted
    slope is not positive, which would reverse the ranking.
    """
    count = raw.shape[1]
    scale, shift = [1.0] * count, [0.0] * count
    if method == "none":
        return Calibration(scale=tuple(scale), shift=tuple(shift))
    if kind == "multi_class":
        temperature = _softmax_temperature(raw, targets)
        return Calibration(scale=(1 / temperature,) * count, shift=tuple(shift))
    logit = np.log(np.clip(raw, _EPS, 1)) - np.log(np.clip(1 - raw, _EPS, 1))
    for k in range(count):
        known = known_mask(targets[:, k])
        if len(np.unique(targets[known, k])) != 2:
            continue
        x, y = logit[known, k].astype(np.float64), targets[known, k] > 0.5
        if method == "temperature":
            scale[k] = 1 / _sigmoid_temperature(x, y)
            continue
        slope, intercept = _platt(x, y)
        if slope > 0:
            scale[k], shift[k] = slope, intercept
    return Calibration(scale=tuple(scale), shift=tuple(shift))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The rule by which an operating point is chosen.

    ``youden``: the largest sensitivity + specificity (Youden 1950). ``f1``: the largest F1.
    ``sensitivity``, ``specificity``, ``ppv``: at least ``value`` of this figure, and then as much
    as possible of the figure it is traded against: specificity for the first, sensitivity for the
    others.
    """

    kind: Literal["youden", "f1", "sensitivity", "specificity", "ppv"] = "youden"
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """From ``youden``, ``f1``, ``sensitivity>=0.90``, ``specificity>=0.95``, ``ppv>=0.30``.

        Raises:
            ConfigurationError: ``text`` is not one of these.
        """
        if text in ("youden", "f1"):
            return cls(kind="youden" if text == "youden" else "f1")
        matched = re.fullmatch(r"(sensitivity|specificity|ppv)\s*>=\s*(0?\.\d+|1(?:\.0*)?)", text)
        if matched is None:
            raise ConfigurationError(
                f"{text!r} is not a rule for an operating point.",
                next_step="Use youden, f1, sensitivity>=0.90, specificity>=0.95 or ppv>=0.30.",
            )
        kind: Literal["sensitivity", "specificity", "ppv"] = matched[1]  # type: ignore[assignment]
        return cls(kind=kind, value=float(matched[2]))

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}>={self.value:.2f}"


YOUDEN: Final = Rule()


def operating_point(
    target: FloatArray, probability: FloatArray, rule: Rule = YOUDEN
) -> OperatingPoint:
    """The threshold that ``rule`` chooses, with its sensitivity and specificity on these films.

    A label with only one class gets the threshold 1, so that it is never reported without
    evidence. So does a label that cannot reach the value of the rule; its rule then says so.
    """
    known = known_mask(target)
    if len(np.unique(target[known])) != 2:
        return OperatingPoint(threshold=1.0, rule="undefined on validation")
    truth = target[known] > 0.5
    fpr, tpr, thresholds = roc_curve(truth, probability[known], drop_intermediate=False)
    # The first threshold is infinite and calls nothing positive.
    fpr, tpr, thresholds = fpr[1:], tpr[1:], thresholds[1:]
    tp, fp = tpr * truth.sum(), fpr * (~truth).sum()
    best = _best(rule, tpr, 1 - fpr, tp / (tp + fp), 2 * tp / (truth.sum() + tp + fp))
    if best is None:
        return OperatingPoint(threshold=1.0, rule=f"{rule}: out of reach on validation")
    return OperatingPoint(
        threshold=float(np.clip(thresholds[best], 0, 1)),
        rule=str(rule),
        sensitivity=float(tpr[best]),
        specificity=float(1 - fpr[best]),
    )


def operating_points(
    labels: Sequence[str], targets: FloatArray, probability: FloatArray, rule: Rule = YOUDEN
) -> dict[str, OperatingPoint]:
    """The operating point of each of ``labels``, see :func:`operating_point`; both arrays are
    ``[N, K]``, ``probability`` is calibrated."""
    return {
        label: operating_point(targets[:, k], probability[:, k], rule)
        for k, label in enumerate(labels)
    }


def _best(
    rule: Rule, sensitivity: FloatArray, specificity: FloatArray, ppv: FloatArray, f1: FloatArray
) -> int | None:
    """The index of the threshold. Thresholds fall, so sensitivity rises."""
    if rule.kind == "youden":
        return int(np.argmax(sensitivity + specificity))
    if rule.kind == "f1":
        return int(np.argmax(f1))
    reached = {"sensitivity": sensitivity, "specificity": specificity, "ppv": ppv}[rule.kind]
    # A share of exactly 0.9 must not fail by the last bit of a division.
    allowed = np.flatnonzero(reached >= (rule.value or 0) - 1e-12)
    if not len(allowed):
        return None
    traded = specificity if rule.kind == "sensitivity" else sensitivity
    return int(allowed[np.argmax(traded[allowed])])  # the first has the fewest false positives


def _platt(logit: FloatArray, truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of least cross-entropy to smoothed targets (Platt 1999, section 2.2).

    n positives aim at (n + 1) / (n + 2), m negatives at 1 / (m + 2): the posterior under a uniform
    prior. Without it, separable films have no finite slope, and a difference of one grey level in
    a pixel moves a probability from 0 to 1.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Focal loss keeps logits close together; without scaling the solver would stop early.
    centre, spread = float(logit.mean()), float(logit.std()) or 1.0
    x = (logit - centre) / spread
    # A film with target t is one positive of weight t and one negative of weight 1 - t.
    fitted = LogisticRegression(C=_NO_PENALTY).fit(
        np.concatenate([x, x])[:, None],
        np.repeat([True, False], len(x)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(fitted.coef_[0, 0]) / spread
    return slope, float(fitted.intercept_[0]) - slope * centre


def _sigmoid_temperature(logit: FloatArray, truth: npt.NDArray[np.bool_]) -> float:
    """The temperature of least negative log-likelihood of one label."""
    signed = np.where(truth, -1.0, 1.0) * logit
    # log(1 + exp(x)), for any x.
    return _best_temperature(lambda t: float(np.mean(np.logaddexp(0, signed / t))))


def _softmax_temperature(raw: FloatArray, targets: FloatArray) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017)."""
    known = known_mask(targets).all(axis=1)
    if not known.any():
        return 1.0
    log_p = np.log(np.clip(raw[known].astype(np.float64), _EPS, 1))
    truth = targets[known]

    def loss(temperature: float) -> float:
        scaled = log_p / temperature
        normed = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        return -float(np.mean(np.sum(truth * normed, axis=1)))

    return _best_temperature(loss)


def _best_temperature(loss: Callable[[float], float]) -> float:
    bounds = tuple(np.log(_TEMPERATURES))
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=bounds, method="bounded")
    return float(np.exp(found.x))
