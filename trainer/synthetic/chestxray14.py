"""The cohort with the labels of ChestX-ray14: real label vectors on synthetic films.

A synthetic patient takes labels, view, sex and age of up to :data:`FILMS_A_PATIENT` successive
films of a real patient from the published table. So prevalence, co-occurrence and what accompanies
the bedside view are real; only the pixels are synthetic.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar, cast

import numpy as np

from hilum.packages.labels import CHESTXRAY14
from trainer import splits, wheels
from trainer.datasets import chestxray14
from trainer.datasets.records import present
from trainer.errors import DataError
from trainer.manifest import Record, Split
from trainer.synthetic import anatomy, extras, film, lung_findings, pose
from trainer.synthetic.film import LabelledFilm

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
_S = TypeVar("_S", bound=Hashable)


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
    table = chestxray14.entries(wheels.table_rows("Data_Entry_2017_v2020", cache_dir))
    stretches = list(_stretches(table))
    if images < len(table):
        shares = {True: float(images), False: float(len(table) - images)}
        drawn = _deal(stretches, shares, seed, everywhere=False)
        stretches = [stretch for stretch, keep in zip(stretches, drawn, strict=True) if keep]
    rng = np.random.default_rng([seed, 14])
    rng.shuffle(stretches)
    split_of = _deal(stretches, SHARES, seed)
    order = {split: n for n, split in enumerate(SHARES)}
    ranked = sorted(range(len(stretches)), key=lambda n: order[split_of[n]])
    sites = rng.choice(list(DEVICES), size=len(stretches), p=_SITE_SHARE)
    return [
        Patient(
            number=number,
            split=split_of[n],
            sex=stretches[n][0].sex,
            age=stretches[n][0].age,
            site=str(sites[n]),
            visits=tuple(
                Visit(view=cast(pose.View, entry.view), labels=present(entry, CHESTXRAY14))
                for entry in stretches[n]
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
        made = film.make(
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


def _deal(
    stretches: list[list[Record]], shares: Mapping[_S, float], seed: int, *, everywhere: bool = True
) -> list[_S]:
    """The share to which each of ``stretches`` goes, see :func:`trainer.splits.by_patient`."""
    films = [(str(n), entry) for n, stretch in enumerate(stretches) for entry in stretch]
    edema = CHESTXRAY14.index("Edema")
    names = [name for name, _ in films]
    rows = [
        (*entry.targets, entry.view == "AP", entry.view == "AP" and entry.targets[edema])
        for _, entry in films
    ]
    dealt = splits.by_patient(names, rows, shares, seed=seed, everywhere=everywhere)
    of_stretch = dict(zip(names, dealt, strict=True))
    return [of_stretch[str(n)] for n in range(len(stretches))]
