"""Figures by view, sex, age band and site: a mean can hide for whom a model fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.figures import figures
from trainer.evaluation.scored import Scored
from trainer.manifest import Record

# Lower ends in years; ChestX-ray14 has 5,402 films of people under 18.
AGE_BANDS: Final = {0: "under 18", 18: "18–39", 40: "40–59", 60: "60–79", 80: "80 and over"}
LEAST_FILMS: Final = 20
_KEPT: Final = ("auroc", "auroc_interval", "sensitivity", "specificity")


def age_band(age: float) -> str:
    """The band of ``age`` in years; empty if the age is unknown or out of range."""
    if math.isnan(age) or not 0 <= age <= 120:
        return ""
    return next(name for low, name in reversed(AGE_BANDS.items()) if age >= low)


_GROUPINGS: Final[Mapping[str, Callable[[Record], str]]] = {
    "view": lambda record: record.view,
    "sex": lambda record: record.sex,
    "age": lambda record: age_band(record.age),
    "site": lambda record: record.site,
}


def subgroups(scored: Scored, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Films, patients, macro and label figures of each group of each grouping.

    Age bands are ordered by age, everything else by name. A grouping with fewer than two groups is
    left out. A group of fewer than :data:`LEAST_FILMS` films has its size only.
    """
    found, bands = {}, list(AGE_BANDS.values())
    for name, of in _GROUPINGS.items():
        values = np.array([of(record) for record in scored.records], dtype=np.str_)
        groups = [str(value) for value in np.unique(values) if value]
        if len(groups) > 1:
            found[name] = {
                group: _group(scored, np.flatnonzero(values == group), bootstrap)
                for group in sorted(groups, key=lambda g: (bands.index(g) if g in bands else 0, g))
            }
    return found


def _group(scored: Scored, rows: np.ndarray[Any, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    part = scored.only(rows)
    size = {"images": len(part), "patients": len(set(part.patients))}
    if len(part) < LEAST_FILMS:
        return size
    of_part = figures(part, bootstrap)
    return {
        **size,
        "macro": {name: of_part["macro"][name] for name in _KEPT},
        "labels": {
            label: {name: row[name] for name in ("positives", *_KEPT)}
            for label, row in of_part["labels"].items()
        },
    }
