"""The cohort with the labels of ChestX-ray14: real label vectors on synthetic films.

A synthetic patient takes labels, view, sex and age of up to :data:`FILMS_A_PATIENT` successive
films of a real patient from the published table. So prevalence, co-occurrence and what accompanies
the bedside view are real; only the pixels are synthetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, cast

import numpy as np

from hilum.packages.labels import CHESTXRAY14
from trainer import splits
from trainer.datasets import chestxray14, real_tables
from trainer.datasets.records import present
from trainer.errors import DataError
from trainer.manifest import Record, Split
from trainer.synthetic import anatomy, extras, film, labelled, lung_findings, pose
from trainer.synthetic.labelled import LabelledFilm

FILMS_A_PATIENT: Final = 8
SHARES: Final[dict[Split, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}
# Two hospitals: a flat-panel detector, and a plate reader with fewer quanta and a steeper curve.
DEVICES: Final = {
    "site-a": film.Device(quanta=(1.5e4, 6e4), blur=(0.3, 0.6), gamma=(0.85, 1.2)),
    "site-b": film.Device(quanta=(3e3, 1.5e4), blur=(0.5, 1.0), gamma=(1.0, 1.45)),
}
_SITE_SHARE: Final = (0.65, 0.35)
_LEADS: Final = {"PA": 0.02, "AP": 0.6}  # share of films that show monitor leads
_FEWEST: Final = 16  # films: enough patients for three splits
_MARKED: Final = 0.8  # share of films with a side marker


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What one film must show."""

    view: pose.View
    labels: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A synthetic patient, before any pixel."""

    number: int
    split: Split
    sex: str
    age: float  # years, of the first film
    site: str
    visits: tuple[Visit, ...]


def plan(images: int, *, seed: int, cache_dir: Path) -> list[Patient]:
    """Draw about ``images`` films without replacement from the real table, split by split.

    Draw and splits are stratified by label and view. So a small cohort has the real prevalence,
    and each split has every label that enough patients have.

    Raises:
        DataError: the table cannot be downloaded, or has fewer images.
    """
    if not _FEWEST <= images <= chestxray14.IMAGES:
        raise DataError(
            f"This cohort must have {_FEWEST} to {chestxray14.IMAGES} films, not {images}.",
            next_step="Ask for fewer films, or for several cohorts with different seeds.",
        )
    table = chestxray14.entries(real_tables.rows("Data_Entry_2017_v2020", cache_dir))
    stretches = list(_stretches(table))
    drawn = _draw(stretches, images, seed)
    kept = [stretch for stretch, keep in zip(stretches, drawn, strict=True) if keep]
    rng = np.random.default_rng([seed, 14])
    rng.shuffle(kept)
    films = [(str(n), entry) for n, stretch in enumerate(kept) for entry in stretch]
    names, rows = [name for name, _ in films], [_features(entry) for _, entry in films]
    split_of = dict(zip(names, splits.by_patient(names, rows, SHARES, seed=seed), strict=True))
    order = {split: n for n, split in enumerate(SHARES)}
    ranked = sorted(range(len(kept)), key=lambda n: order[split_of[str(n)]])
    sites = rng.choice(list(DEVICES), size=len(kept), p=_SITE_SHARE)
    return [
        Patient(
            number=number,
            split=split_of[str(n)],
            sex=kept[n][0].sex,
            age=kept[n][0].age,
            site=str(sites[n]),
            visits=tuple(
                Visit(view=cast(pose.View, entry.view), labels=present(entry, CHESTXRAY14))
                for entry in kept[n]
            ),
        )
        for number, n in enumerate(ranked)
    ]


def films(
    chest: anatomy.Anatomy, patient: Patient, rng: np.random.Generator, *, side: int
) -> Iterator[LabelledFilm]:
    """The films of ``patient``, in the order of its visits."""
    body = pose.draw_body(rng)
    posed: dict[pose.View, anatomy.Anatomy] = {}
    for visit in patient.visits:
        if visit.view not in posed:
            posed[visit.view] = pose.take(chest, pose.draw_pose(body, visit.view, rng))
        there = posed[visit.view]
        base = there.integrals
        if patient.sex == "F":
            base = base + extras.breasts(there, rng)
        if rng.random() < _LEADS[visit.view]:
            base = base + extras.leads(base.shape, rng)
        made = labelled.make(
            there,
            visit.labels,
            rng,
            inserts=lung_findings.INSERTS,
            side=side,
            base=base,
            device=DEVICES[patient.site],
        )
        if rng.random() < _MARKED:
            extras.mark(made.film.pixels, visit.view, rng)
        yield made


def _stretches(table: list[Record]) -> Iterator[list[Record]]:
    """The films of each real patient, in order, in pieces of at most FILMS_A_PATIENT."""
    ordered = sorted(table, key=lambda entry: entry.uri)  # 00000001_000.png: patient, film
    for _, group in groupby(ordered, key=lambda entry: entry.patient):
        entries = list(group)
        for start in range(0, len(entries), FILMS_A_PATIENT):
            yield entries[start : start + FILMS_A_PATIENT]


def _draw(stretches: list[list[Record]], images: int, seed: int) -> list[bool]:
    """Whether each of ``stretches`` is in the cohort, which has about ``images`` films."""
    total = sum(map(len, stretches))
    if images == total:
        return [True] * len(stretches)
    films = [(str(n), entry) for n, stretch in enumerate(stretches) for entry in stretch]
    names, rows = [name for name, _ in films], [_features(entry) for _, entry in films]
    shares = {True: float(images), False: float(total - images)}
    drawn = splits.by_patient(names, rows, shares, seed=seed, everywhere=False)
    kept = dict(zip(names, drawn, strict=True))
    return [kept[str(n)] for n in range(len(stretches))]


def _features(entry: Record) -> tuple[float, ...]:
    """The features by which draw and splits are stratified."""
    bedside = entry.view == "AP"
    edema = entry.targets[CHESTXRAY14.index("Edema")]
    return (*entry.targets, float(bedside), float(bedside and edema))
