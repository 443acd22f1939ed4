"""Counts and rates at the operating points, for many resamples at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]

NAMES: Final = ("sensitivity", "specificity", "ppv", "npv", "f1")


class Decisions:
    """Every label of every film, called or not. Labels other than 0 and 1 do not count."""

    def __init__(
        self,
        targets: FloatArray,
        probability: FloatArray,
        threshold: FloatArray,
        undefined: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Args:
        targets: ``[N, K]``.
        probability: ``[N, K]``.
        threshold: ``[K]``.
        undefined: labels ``[K]`` without an operating point; ``None``: all have one.
        """
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
    """The rates :data:`NAMES` of ``counts`` ``[..., 4, K]``, ``[..., 5, K]``; NaN if not defined.

    F1 is not defined if a label never occurs. It is 0 if the label occurs and is never called.
    """
    tp, fp, fn, tn = (counts[..., n, :] for n in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
        found = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn), f1)
        return np.stack(found, axis=-2)
