"""Published AUROC on ChestX-ray14 beside ours, where the two can be compared.

The official test split is harder than a random one by patient: the same model has 0.81 instead of
0.84 there. A published figure is comparable only if both are of the official test split; the others
are listed as not comparable.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import numpy as np

from hilum.packages.labels import CHESTXRAY14, LabelSchema
from trainer import metrics
from trainer.evaluation.scored import Scored
from trainer.manifest import Record

OFFICIAL_TEST_IMAGES: Final = 25_596
# Shares in the table have two decimals of a per cent; our labels must agree with them to that.
_PERCENT: Final = 0.0051


@dataclass(frozen=True, kw_only=True)
class Source:
    """The publication behind a column of the table."""

    key: str
    title: str
    split: Literal["official", "own"]


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


SOURCES: Final = tuple(Source(**row) for row in _rows("published.csv"))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A finding of ChestX-ray14: its share of the official test split, and published AUROC."""

    percent_test: float
    auroc: Mapping[str, float]  # by Source.key


@cache
def table() -> Mapping[str, Row]:
    """Every label of the table, with `No Finding`."""
    return {
        line["label"]: Row(
            percent_test=float(line["percent_test"]),
            auroc={s.key: float(line[s.key]) for s in SOURCES if line[s.key]},
        )
        for line in _rows("chestxray14.csv")
    }


def is_official_test(schema: LabelSchema, listed: Sequence[Record]) -> bool:
    """Whether ``listed``, a split as the data-set table lists it, is the official test split: its
    size and every prevalence agree."""
    if schema.id != CHESTXRAY14.id or len(listed) != OFFICIAL_TEST_IMAGES:
        return False
    targets = np.array([record.targets for record in listed])
    shares = 100 * np.mean(targets == 1, axis=0)
    return all(
        abs(share - table()[label].percent_test) <= _PERCENT
        for label, share in zip(schema.labels, shares, strict=True)
    )


def beside(scored: Scored, listed: Sequence[Record] | None = None) -> dict[str, Any] | None:
    """Our AUROC and the published ones; ``None`` for another label schema than ChestX-ray14's.

    ``comparable`` lists the sources that measured on the same split as we did. There is none unless
    ours is the official test split.

    Args:
        scored: the measured films.
        listed: the split as the data-set table lists it; ``None``: all of it was measured.
            ``left_out`` is the number of films that were not measured.
    """
    if scored.schema.id != CHESTXRAY14.id:
        return None
    listed = scored.records if listed is None else listed
    official = is_official_test(scored.schema, listed)
    rows = {
        label: {
            "ours": metrics.auroc(scored.targets[:, k], scored.probability[:, k]),
            **table()[label].auroc,
        }
        for k, label in enumerate(scored.schema.labels)
    }
    keys = ("ours", *(source.key for source in SOURCES))
    return {
        "split": "official test" if official else "not the official test split",
        "left_out": len(listed) - len(scored),
        "comparable": [s.key for s in SOURCES if official and s.split == "official"],
        "sources": {s.key: {"title": s.title, "split": s.split} for s in SOURCES},
        "labels": rows,
        "mean": {key: metrics.mean_defined([row[key] for row in rows.values()]) for key in keys},
    }
