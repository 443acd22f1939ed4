"""Computes the figures of a split with their intervals: per label, macro and micro.

A figure that is not defined is ``None``, never 0 or 1: a label without positives has no AUROC.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from trainer import metrics
from trainer.arrays import BoolArray, Float32Array, FloatArray
from trainer.evaluation.bootstrap import Bootstrap, enough_patients, interval
from trainer.evaluation.ranking import Ranking, whole
from trainer.evaluation.scored import Scored

AREAS: Final = ("auroc", "average_precision")
RATES: Final = ("sensitivity", "specificity", "ppv", "npv", "f1")
_COUNTS: Final = ("tp", "fp", "fn", "tn")
FIGURES: Final = (*AREAS, *RATES)


class Decisions:
    """Every label of every film, called or not. Labels other than 0 and 1 do not count."""

    def __init__(
        self,
        targets: FloatArray,
        probability: FloatArray,
        threshold: FloatArray,
        undefined: BoolArray | None = None,
    ) -> None:
        """``targets`` and ``probability`` are ``[N, K]``, ``threshold`` is ``[K]``. ``undefined``:
        labels ``[K]`` without an operating point; ``None``: all have one."""
        called = probability >= threshold
        positive, negative = targets == 1, targets == 0
        outcomes = (positive & called, negative & called, positive & ~called, negative & ~called)
        self.labels = targets.shape[1]
        self._undefined = undefined
        self._outcomes = np.concatenate(outcomes, axis=1).astype(np.float32)

    def counts(self, weights: Float32Array) -> FloatArray:
        """True and false positives, false and true negatives, ``[b, 4, K]``; NaN for a label
        without an operating point."""
        found = weights.T.astype(np.float32) @ self._outcomes
        counts = found.reshape(-1, 4, self.labels).astype(np.float64)
        if self._undefined is not None:
            counts[:, :, self._undefined] = np.nan
        return counts


def rates(counts: FloatArray) -> FloatArray:
    """The :data:`RATES` of ``counts`` ``[..., 4, K]``, ``[..., 5, K]``; NaN if not defined.

    F1 is not defined if a label never occurs. It is 0 if the label occurs and is never called.
    """
    tp, fp, fn, tn = (counts[..., n, :] for n in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
        found = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn), f1)
        return np.stack(found, axis=-2)


class Statistic:
    """Turns weights ``[N, b]`` into every resampled figure, ``[b, K + 2, F]``.

    Rows are the labels of the schema, then macro and micro over the findings; columns are
    :data:`FIGURES`. Macro is the mean over the findings for which a figure is defined. Micro pools
    the scores of the findings, and the decisions on those that have an operating point.
    """

    def __init__(self, scored: Scored) -> None:
        targets, probability = scored.targets, scored.probability
        self._findings = list(scored.findings)
        columns = range(targets.shape[1])
        self._rankings = [Ranking(targets[:, k], probability[:, k]) for k in columns]
        chosen = targets[:, self._findings]
        film = np.repeat(np.arange(len(targets)), len(self._findings))
        scores = probability[:, self._findings].ravel()
        self._pooled = Ranking(chosen.ravel(), scores, film)
        self._decisions = Decisions(targets, probability, scored.thresholds, scored.undefined)

    def __call__(self, weights: Float32Array) -> FloatArray:
        labels = np.stack([ranking.areas(weights) for ranking in self._rankings], axis=1)
        counts = self._decisions.counts(weights)
        found = np.concatenate([labels, rates(counts).swapaxes(1, 2)], axis=2)
        macro = mean_defined(found[:, self._findings])
        pooled = np.nansum(counts[:, :, self._findings], axis=2, keepdims=True)
        micro = [self._pooled.areas(weights), rates(pooled)[:, :, 0]]
        rows = (found, macro[:, None], np.concatenate(micro, axis=1)[:, None])
        return np.concatenate(rows, axis=1)

    def counts(self, films: int) -> FloatArray:
        """True and false positives, false and true negatives of all films, ``[4, K]``; NaN for a
        label without an operating point."""
        found: FloatArray = self._decisions.counts(whole(films))[0]
        return found


def figures(scored: Scored, bootstrap: Bootstrap) -> dict[str, Any]:
    """``labels``, ``macro`` and ``micro`` of ``scored``, each figure beside its interval.

    An interval is ``None`` if a class comes from fewer patients than
    :data:`trainer.evaluation.bootstrap.LEAST_PATIENTS`.
    """
    statistic = Statistic(scored)
    value = statistic(whole(len(scored)))[0]
    patients = scored.patients
    samples = bootstrap.samples(patients, statistic)
    schema, counts = scored.schema, statistic.counts(len(scored))
    labels = {}
    for k, label in enumerate(schema.labels):
        target, probability = scored.targets[:, k], scored.probability[:, k]
        ill = {patients[n] for n in np.flatnonzero(target == 1)}
        known = (target == 0) | (target == 1)
        wide = enough_patients(patients, target)
        point = scored.points[label]
        labels[label] = {
            "images": int(known.sum()),
            "positives": int((target == 1).sum()),
            "positive_patients": len(ill),
            **_beside(value[k], samples[:, k] if wide else None),
            "brier": metrics.brier(target, probability),
            "ece": metrics.calibration_error(target, probability),
            "threshold": point.threshold,
            "rule": point.rule,
            "confusion": None
            if scored.undefined[k]
            else dict(zip(_COUNTS, (int(n) for n in counts[:, k]), strict=True)),
        }
    macro = _beside(value[-2], samples[:, -2]) | scored.macro(labels, ("brier", "ece"))
    return {
        "images": len(scored),
        "patients": len(set(patients)),
        "replicates": bootstrap.replicates,
        "macro_over": list(schema.findings),
        "macro_defined": sum(labels[label]["auroc"] is not None for label in schema.findings),
        "macro": macro,
        "micro": _beside(value[-1], samples[:, -1]),
        "labels": labels,
    }


def _beside(value: FloatArray, samples: FloatArray | None) -> dict[str, Any]:
    """Each of :data:`FIGURES` with its interval; ``value`` ``[F]``, ``samples`` ``[B, F]``."""
    found: dict[str, Any] = {}
    for n, name in enumerate(FIGURES):
        defined = not np.isnan(value[n])
        found[name] = float(value[n]) if defined else None
        spread = interval(samples[:, n]) if defined and samples is not None else None
        found[f"{name}_interval"] = None if spread is None else list(spread)
    return found


def mean_defined(values: FloatArray) -> FloatArray:
    """Mean over axis 1 of the values that are not NaN; NaN if there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
    return mean
