"""AUROC and average precision under weights, for many resamples at once.

Scores are sorted once; a resample changes only the weight of each film. Both areas change only at
positive films. So one sparse product gathers the weights at and between the positives, and the
later arrays are as long as the number of positives: a few per cent of the films.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.arrays import Float32Array, FloatArray


class Ranking:
    """Films by falling score of one label. Films whose label is neither 0 nor 1 do not count."""

    def __init__(
        self,
        target: FloatArray,
        score: FloatArray,
        films: npt.NDArray[np.intp] | None = None,
    ) -> None:
        """All ``[M]``; ``films``: the film of each score, by default one each."""
        films = np.arange(len(target)) if films is None else films
        rows = np.flatnonzero((target == 0) | (target == 1))
        order = rows[np.argsort(-score[rows], kind="stable")]
        positive, ordered = target[order] == 1, score[order]
        # Runs of equal scores, by falling score: no threshold can divide one.
        run = np.cumsum(np.append(0, np.diff(ordered) != 0))[: len(order)]
        met, step = np.unique(run[positive], return_inverse=True)
        # For each film: the first run with a positive at or after its own.
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

        As in scikit-learn, AUROC counts ties as one half, and average precision is the sum over
        steps of recall times precision.
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
    """The weights of all ``count`` films once each, ``[count, 1]``: no resample."""
    return np.ones((count, 1), dtype=np.float32)
