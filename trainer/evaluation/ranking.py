"""AUROC and average precision under weights, for many resamples at once.

Scores are sorted once; a resample only changes how much each film counts. Both areas change only
where a positive is met, so one sparse product gathers what lies at and between the positives, and
everything after it is as long as there are positives: a few per cent of the films.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]


class Ranking:
    """Films by falling score of one label. Films whose label is neither 0 nor 1 have no part."""

    def __init__(
        self,
        target: FloatArray,
        score: FloatArray,
        films: npt.NDArray[np.intp] | None = None,
    ) -> None:
        """``target`` and ``score`` ``[M]``; ``films`` ``[M]``: the film of each, if not its own."""
        films = np.arange(len(target)) if films is None else films
        rows = np.flatnonzero((target == 0) | (target == 1))
        order = rows[np.argsort(-score[rows], kind="stable")]
        positive, ordered = target[order] == 1, score[order]
        # Runs of equal scores, by falling score: no threshold lies within one.
        run = np.cumsum(np.append(0, np.diff(ordered) != 0))[: len(order)]
        met, step = np.unique(run[positive], return_inverse=True)
        # Of each film: the first run with a positive that does not come before its own.
        place = np.searchsorted(met, run)
        steps = len(met)
        tied = np.isin(run, met)
        row = 2 * steps + place  # a negative before the positives of that run, or after the last
        row[tied] = steps + place[tied]  # a negative among them
        row[positive] = step
        shape = (3 * steps + 1, int(films.max(initial=-1)) + 1)
        ones = np.ones(len(order), dtype=np.float32)
        self._steps = steps
        self._gather = sparse.csr_array((ones, (row, films[order])), shape=shape)

    def areas(self, weights: Float32Array) -> FloatArray:
        """AUROC and average precision ``[b, 2]`` under ``weights`` ``[N, b]``; NaN if not defined.

        AUROC counts ties as one half, average precision is the sum over steps of recall times
        precision; both as in scikit-learn.
        """
        steps = self._steps
        gathered = self._gather @ weights[: self._gather.shape[1]]
        positive, tied = gathered[:steps], gathered[steps : 2 * steps]
        before = gathered[2 * steps : 3 * steps]
        true = np.cumsum(positive, axis=0)
        above = np.cumsum(before + tied, axis=0) - tied  # false positives before each step
        positives = positive.sum(axis=0, dtype=np.float64)
        negatives = gathered[steps:].sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            below = negatives.astype(np.float32) - above - tied / 2
            won = np.einsum("tb,tb->b", positive, below, dtype=np.float64)
            precision = np.where(positive > 0, true / (true + above + tied), 0)
            gained = np.einsum("tb,tb->b", positive, precision, dtype=np.float64)
            auroc = won / (positives * negatives)
            return np.stack([auroc, gained / positives], axis=1)


def whole(count: int) -> Float32Array:
    """The weights that make no resample: every one of ``count`` films once, ``[count, 1]``."""
    return np.ones((count, 1), dtype=np.float32)
