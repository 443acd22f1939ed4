"""Splits by patient, stratified for many labels at once.

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011), with patients in the
place of samples: the rarest label is distributed first, each of its patients to the split that
still lacks most of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError
from trainer.manifest import SPLITS, Record

_S = TypeVar("_S", bound=Hashable)


def by_patient(
    patients: Sequence[str],
    features: Sequence[Sequence[float]],
    shares: Mapping[_S, float],
    *,
    seed: int,
    everywhere: bool = True,
) -> list[_S]:
    """The split of every film.

    All films of a patient go to one split. Each split gets about its share of the films and of
    the positives of each feature. The same arguments give the same splits.

    Args:
        patients: patient of each film.
        features: ``[N][F]``, labels of each film and what else is to be balanced; 0 and NaN count
            as absent, any other number as present.
        shares: share of the films by split; positive, their sum need not be 1.
        seed: of the random order of patients.
        everywhere: a feature is in every split, however small the split's share, if at least as
            many patients have it as there are splits.

    Raises:
        DataError: there are fewer patients than splits.
    """
    if not shares or min(shares.values()) <= 0:
        raise ValueError("every share must be positive")
    names, member = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < len(shares):
        raise DataError(f"{len(names)} patients are too few for {len(shares)} splits.")
    present = np.nan_to_num(np.asarray(features, dtype=np.float64).reshape(len(member), -1)) > 0
    counts = np.zeros((len(names), present.shape[1] + 1))
    np.add.at(counts[:, :-1], member, present)
    counts[:, -1] = np.bincount(member, minlength=len(names))  # films: distributed last
    share = np.array(list(shares.values()))
    chosen = _deal(counts, share / share.sum(), np.random.default_rng(seed), everywhere)
    keys = list(shares)
    return [keys[chosen[n]] for n in member]


def _deal(
    counts: npt.NDArray[np.float64],
    share: npt.NDArray[np.float64],
    rng: np.random.Generator,
    everywhere: bool,
) -> npt.NDArray[np.intp]:
    """The split of each patient. ``counts`` ``[P, F]``; every patient has the last feature."""
    chosen = np.full(len(counts), -1, dtype=np.intp)
    wanted = share[:, None] * counts.sum(axis=0)  # [S, F], what each split still lacks
    left = (counts > 0).sum(axis=0)
    holds = np.zeros_like(wanted)
    for _ in range(counts.shape[1]):
        rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
        if left[rarest] == 0:
            break
        open_ones = np.flatnonzero((chosen < 0) & (counts[:, rarest] > 0))
        # Patients with many films first, while every split has room for them.
        order = rng.permutation(open_ones)
        order = order[np.argsort(-counts[order, rarest], kind="stable")]
        for position, patient in enumerate(order):
            candidates = np.arange(len(share))
            lacking = np.flatnonzero(holds[:, rarest] == 0)
            if everywhere and len(lacking) and len(order) - position <= len(lacking):
                candidates = lacking  # their last chance to get the feature
            key = np.lexsort((wanted[candidates, -1], wanted[candidates, rarest]))
            split = candidates[key[-1]]
            chosen[patient] = split
            wanted[split] -= counts[patient]
            holds[split] += counts[patient]
        left = (counts[chosen < 0] > 0).sum(axis=0)
    return chosen


def ordered(records: Sequence[Record]) -> list[Record]:
    """``records`` split by split, otherwise in the same order."""
    return sorted(records, key=lambda record: SPLITS.index(record.split))
