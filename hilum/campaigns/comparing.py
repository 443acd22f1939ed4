"""Compare what a campaign's model says with what is shown now, pair by pair.

A label *flips* where one result is at or above the operating point of its own model and the other
one is not. Nothing grows with the number of pairs: everything is counted, batch by batch.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.campaigns.planning import wilson
from hilum.db import models
from hilum.db.campaigns import pairs as stored
from hilum.db.campaigns.pairs import Pair
from hilum.db.campaigns.rows import Campaign
from hilum.db.connection import Connection
from hilum.db.models import RegisteredModel
from hilum.packages.manifest import Manifest
from hilum.packages.registered import manifest_of

ALL: Final = ("all", "all")  # the stratum of all pairs
_BATCH: Final = 1000
_BINS: Final = 200  # of a histogram of probabilities
_PARTS: Final = 10  # of a PSI
_FLOOR: Final = 1e-4  # of a share within a PSI, whose logarithm must exist
_MOST_STRATA: Final = 100  # values of one kind; the rest is "other"
_SMALL: Final = 20  # pairs: smaller strata are not shown, for a text may name a person
_Z: Final = 1.959963984540054
_AGES: Final = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (math.inf, "80+"))

IntArray = npt.NDArray[np.int64]
Stratum = tuple[str, str]


@dataclass(kw_only=True)
class _Tally:
    """Counts of one stratum, by label."""

    n: int
    flipped: int  # pairs of which any label flips
    before: IntArray  # [K] at or above the operating point
    after: IntArray
    gained: IntArray
    lost: IntArray
    histogram: IntArray  # [2, K, bins], before and after

    @classmethod
    def empty(cls, labels: int) -> _Tally:
        zeros = [np.zeros(labels, dtype=np.int64) for _ in range(4)]
        return cls(
            n=0,
            flipped=0,
            before=zeros[0],
            after=zeros[1],
            gained=zeros[2],
            lost=zeros[3],
            histogram=np.zeros((2, labels, _BINS), dtype=np.int64),
        )


@dataclass(frozen=True, kw_only=True, order=True)
class Changed:
    """A film whose probability changed much."""

    change: float  # the largest |Δp| of a label
    position: int
    pair: Pair = field(compare=False)
    label: str = field(compare=False)
    before: float = field(compare=False)
    after: float = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result. :attr:`document` is its JSON; the films are what a page shows beside it."""

    document: dict[str, Any]
    changed: tuple[Changed, ...]  # those that changed most, first
    manifest: Manifest  # of the campaign's model


def compare(
    connection: Connection, campaign: Campaign, *, at_most: int = 200_000, films: int = 12
) -> Comparison:
    """Compare the campaign's results with what is shown now.

    Args:
        connection: a transaction.
        campaign: the campaign, whether it has ended or not.
        at_most: about so many pairs; of a larger campaign every n-th is taken.
        films: how many of the films that changed most are kept.
    """
    known: dict[int, RegisteredModel] = {}

    def model_of(model_id: int) -> RegisteredModel:
        if model_id not in known:
            found = models.get(connection, model_id)
            assert found is not None  # a result refers to it
            known[model_id] = found
        return known[model_id]

    manifest = manifest_of(model_of(campaign.model_id))
    accumulator = _Accumulator(manifest, model_of, films)
    for batch in _batches(stored.iterate(connection, campaign, at_most=at_most)):
        accumulator.add(batch)
    document = {
        "campaign": campaign.id,
        "name": campaign.name,
        "status": campaign.status.value,
        "model": campaign.digest,
        "pipeline": campaign.pipeline,
        "scored": campaign.scored,
        "refused": campaign.refused,
        "failed": campaign.failed,
        "codes": campaign.codes,
        **accumulator.document(),
    }
    changed = tuple(sorted(accumulator.changed, reverse=True))
    return Comparison(document=document, changed=changed, manifest=manifest)


def psi(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float | None:
    """The population stability index of two histograms over the same bins: the sum of
    (a − b) ln(a / b) over ten parts with equal shares before (Siddiqi 2006, section 8). ``None`` if
    one is empty."""
    if not before.sum() or not after.sum():
        return None
    share = np.cumsum(before) / before.sum()
    part = np.minimum((share - before / before.sum() / 2) * _PARTS, _PARTS - 1).astype(int)
    b = np.bincount(part, weights=before, minlength=_PARTS) / before.sum()
    a = np.bincount(part, weights=after, minlength=_PARTS) / after.sum()
    a, b = np.maximum(a, _FLOOR), np.maximum(b, _FLOOR)
    return float(((a - b) * np.log(a / b)).sum())


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """The change of a share between paired samples, with its 95 % interval: Wald with half a pair
    added to each cell (Agresti and Min 2005)."""
    if n == 0:
        return 0.0, -1.0, 1.0
    g, low, total = gained + 0.5, lost + 0.5, n + 2
    centre = (g - low) / total
    half = _Z * math.sqrt(max(g + low - (g - low) ** 2 / total, 0.0)) / total
    return (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half)


class _Accumulator:
    def __init__(
        self, manifest: Manifest, model_of: Callable[[int], RegisteredModel], films: int
    ) -> None:
        self._labels = manifest.label_set.findings
        self._manifest = manifest
        self._model_of = model_of
        self._films = films
        self._tallies: dict[Stratum, _Tally] = {}
        self._baselines: dict[tuple[str, str], int] = {}
        self._unpaired = 0
        self._readings = {label: [0, 0, 0] for label in self._labels}  # n, agrees before, after
        self.changed: list[Changed] = []

    def add(self, batch: list[Pair]) -> None:
        """Count a batch."""
        by_model: dict[int, list[Pair]] = {}
        for pair in batch:
            if pair.before is None:
                self._unpaired += 1
            else:
                by_model.setdefault(pair.before.model_id, []).append(pair)
        for model_id, some in by_model.items():
            self._count(some, self._model_of(model_id))

    def _count(self, pairs: list[Pair], model: RegisteredModel) -> None:
        old = manifest_of(model)
        both = [label in old.label_set.labels for label in self._labels]
        after = self._values([pair.after.probability for pair in pairs], self._manifest)
        before = self._values([p.before.probability for p in pairs if p.before], old)
        is_after = after >= self._thresholds(self._manifest)
        is_before = before >= self._thresholds(old)
        # A label that only one of the models has does not flip.
        gained, lost = is_after & ~is_before & both, ~is_after & is_before & both
        for pair in pairs:
            assert pair.before is not None
            key = (model.digest, pair.before.pipeline)
            self._baselines[key] = self._baselines.get(key, 0) + 1
        places = [self._bins(before), self._bins(after)]
        for stratum, rows in self._strata(pairs).items():
            tally = self._tallies.setdefault(stratum, _Tally.empty(len(self._labels)))
            tally.n += len(rows)
            tally.flipped += int((gained[rows] | lost[rows]).any(axis=1).sum())
            tally.before += is_before[rows].sum(axis=0)
            tally.after += is_after[rows].sum(axis=0)
            tally.gained += gained[rows].sum(axis=0)
            tally.lost += lost[rows].sum(axis=0)
            for side, place in enumerate(places):
                for k in range(len(self._labels)):
                    tally.histogram[side, k] += np.bincount(place[rows, k], minlength=_BINS)
        change = np.where(both, np.abs(after - before), 0.0)
        for row, pair in enumerate(pairs):
            self._read(pair, is_before[row], is_after[row])
            k = int(change[row].argmax())
            self._keep(pair, k, float(before[row, k]), float(after[row, k]))

    def _keep(self, pair: Pair, k: int, before: float, after: float) -> None:
        one = Changed(
            change=abs(after - before),
            position=pair.position,
            pair=pair,
            label=self._labels[k],
            before=before,
            after=after,
        )
        if len(self.changed) < self._films:
            heapq.heappush(self.changed, one)
        elif self.changed and one.change > self.changed[0].change:
            heapq.heapreplace(self.changed, one)

    def _read(self, pair: Pair, before: Any, after: Any) -> None:
        for label, present in pair.readings.items():
            if label in self._readings:
                k = self._labels.index(label)
                count = self._readings[label]
                count[0] += 1
                count[1] += bool(before[k]) == present
                count[2] += bool(after[k]) == present

    def _values(self, probabilities: list[Any], manifest: Manifest) -> npt.NDArray[np.float32]:
        """[pairs, K] in the order of the campaign's labels; 0 where a model lacks one."""
        matrix = np.stack(probabilities)
        found = np.zeros((len(matrix), len(self._labels)), dtype=np.float32)
        for k, label in enumerate(self._labels):
            if label in manifest.label_set.labels:
                found[:, k] = matrix[:, manifest.label_set.labels.index(label)]
        return found

    def _thresholds(self, manifest: Manifest) -> npt.NDArray[np.float32]:
        points = manifest.operating_points
        return np.array(
            [points[label].threshold if label in points else 2.0 for label in self._labels],
            dtype=np.float32,
        )

    @staticmethod
    def _bins(values: npt.NDArray[np.float32]) -> IntArray:
        return np.clip((values * _BINS).astype(np.int64), 0, _BINS - 1)

    def _strata(self, pairs: list[Pair]) -> dict[Stratum, list[int]]:
        found: dict[Stratum, list[int]] = {ALL: [*range(len(pairs))]}
        for row, pair in enumerate(pairs):
            for kind, value in _strata_of(pair):
                seen = sum(1 for known, _ in self._tallies if known == kind)
                full = seen >= _MOST_STRATA and (kind, value) not in self._tallies
                found.setdefault((kind, "other" if full else value), []).append(row)
        return found

    def document(self) -> dict[str, Any]:
        """All counts with their intervals, as JSON."""
        whole = self._tallies.get(ALL, _Tally.empty(len(self._labels)))
        strata = [
            {"stratum": kind, "value": value, **self._shown(tally)}
            for (kind, value), tally in sorted(self._tallies.items())
            if (kind, value) != ALL and tally.n >= _SMALL
        ]
        read = {label: counts for label, counts in self._readings.items() if counts[0]}
        return {
            "pairs": whole.n,
            "without_a_result_before": self._unpaired,
            "compared_with": [
                {"model": digest, "pipeline": pipeline, "pairs": n}
                for (digest, pipeline), n in sorted(self._baselines.items())
            ],
            **self._shown(whole),
            "strata": strata,
            "smaller_strata": sum(
                1 for key, tally in self._tallies.items() if key != ALL and tally.n < _SMALL
            ),
            "readers": {
                label: {
                    "readings": n,
                    "agrees_before": [before / n, *wilson(before, n)],
                    "agrees_after": [after / n, *wilson(after, n)],
                }
                for label, (n, before, after) in read.items()
            }
            or None,
            "changed_most": [
                {
                    "position": one.position,
                    "label": one.label,
                    "before": round(one.before, 6),
                    "after": round(one.after, 6),
                }
                for one in sorted(self.changed, reverse=True)
            ],
        }

    def _shown(self, tally: _Tally) -> dict[str, Any]:
        n = tally.n
        return {
            "n": n,
            "flipped": [tally.flipped, *_rounded(wilson(tally.flipped, n))],
            "labels": {
                label: {
                    "before": int(tally.before[k]),
                    "after": int(tally.after[k]),
                    "gained": [int(tally.gained[k]), *_rounded(wilson(int(tally.gained[k]), n))],
                    "lost": [int(tally.lost[k]), *_rounded(wilson(int(tally.lost[k]), n))],
                    "change": _rounded(
                        paired_difference(int(tally.gained[k]), int(tally.lost[k]), n)
                    ),
                    "psi": _psi_of(tally, k),
                }
                for k, label in enumerate(self._labels)
            },
        }


def _psi_of(tally: _Tally, k: int) -> float | None:
    found = psi(tally.histogram[0, k], tally.histogram[1, k])
    return None if found is None else round(found, 5)


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 6) for value in values]


def _strata_of(pair: Pair) -> Iterator[Stratum]:
    yield "site", pair.site or "unknown"
    yield "device", pair.device or "unknown"
    yield "view", pair.view or "unknown"
    yield "sex", pair.sex or "unknown"
    age = pair.age_years
    yield "age", "unknown" if age is None else next(name for top, name in _AGES if age < top)


def _batches(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while batch := [*itertools.islice(pairs, _BATCH)]:
        yield batch
