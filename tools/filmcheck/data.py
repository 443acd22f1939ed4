"""Makes films and views for training, for choosing thresholds and for the reported figures.

No patient, drawn picture or real picture is in two of these sets. The real radiographs of
:func:`real_films` are in none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images

from hilum.filmcheck.network import KINDS
from tools.filmcheck import distort, others, projections
from tools.filmcheck.distort import Pose
from trainer.errors import DataError
from trainer.synthetic import anatomy

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Set = Literal["train", "val", "test"]

SEED: Final = 31
PATIENTS: Final[dict[Set, int]] = {"train": 84, "val": 18, "test": 24}
DRAWN: Final[dict[Set, int]] = {"train": 4200, "val": 700, "test": 1000}
FRONTAL, LATERAL, ELSEWHERE = 22, 9, 9  # films a patient
CUTS: Final = 0.15  # parts of real pictures, as a share of the drawn ones
# Real pictures that are not radiographs: CT, MR, ultrasound, … of pydicom and pydicom-data.
PICTURES: Final[dict[Set, tuple[str, ...]]] = {
    "train": ("CT_small.dcm", "693_UNCR.dcm", "US1_UNCR.dcm", "OBXXXX1A.dcm"),
    "val": ("MR_small.dcm", "color-px.dcm"),
    "test": ("MR2_UNCR.dcm", "emri_small.dcm", "eCT_Supplemental.dcm", "JPEG2000_UNC.dcm"),
}
_NUMBER: Final[dict[Set, int]] = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class Films:
    """One set of films."""

    image: UInt8Array  # [N, S, S], upright, with bright bones
    kind: npt.NDArray[np.int64]  # [N], index into KINDS


@dataclass(frozen=True, kw_only=True)
class Views:
    """Inputs of the network and the outputs that it must learn."""

    view: npt.NDArray[np.float16]  # [N, SIDE, SIDE]
    kind: npt.NDArray[np.int64]  # [N]
    turn: npt.NDArray[np.int64]  # [N], quarter turns
    inverted: npt.NDArray[np.int64]  # [N], 0 or 1
    mirrored: npt.NDArray[np.int64]  # [N], 0 or 1


def films(part: Set, *, cache_dir: Path, processes: int) -> Films:
    """Make the films of one set; they do not depend on ``processes``.

    Raises:
        DataError: the CT cannot be downloaded.
    """
    tasks = [(cache_dir, part, n) for n in range(PATIENTS[part])]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        chests = list(pool.map(_of_patient, tasks, chunksize=3))
    rng = np.random.default_rng([SEED, _NUMBER[part], 1])
    pictures = _pictures(part)
    rest = [others.drawn(rng) for _ in range(DRAWN[part])]
    rest += [others.cut(pictures, rng) for _ in range(int(CUTS * DRAWN[part]))]
    images = [image for chest in chests for image in chest[0]] + rest
    kinds = [kind for chest in chests for kind in chest[1]] + [KINDS.index("other")] * len(rest)
    return Films(image=np.stack(images), kind=np.array(kinds))


def views(found: Films, *, count: int, seed: int, processes: int) -> Views:
    """Make ``count`` distorted views of ``found`` in all poses; half of them show frontal films."""
    size = 500
    tasks = [
        (found, min(size, count - start), seed, start // size) for start in range(0, count, size)
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        parts = list(pool.map(_views, tasks))
    return Views(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS})


_FIELDS: Final = ("view", "kind", "turn", "inverted", "mirrored")


def real_films() -> dict[str, UInt8Array]:
    """The real radiographs of pydicom-data, upright with bright bones, ``[S, S]``: RG1, a chest,
    and RG3, a leg. They are never used for training."""
    # Both are MONOCHROME1.
    return {name: others.whole(-_picture(f"{name}_UNCR.dcm")) for name in ("RG1", "RG3")}


def _views(task: tuple[Films, int, int, int]) -> Views:
    found, count, seed, block = task
    rng = np.random.default_rng([SEED, seed, block])
    of_kind = [np.flatnonzero(found.kind == kind) for kind in range(len(KINDS))]
    made: dict[str, list[object]] = {name: [] for name in _FIELDS}
    for _ in range(count):
        kind = int(rng.choice(len(KINDS), p=(0.5, 0.17, 0.33)))
        film = found.image[rng.choice(of_kind[kind])]
        pose = Pose.drawn(rng)
        made["view"].append(distort.view(film, pose, rng).astype(np.float16))
        made["kind"].append(kind)
        made["turn"].append(pose.turn)
        made["inverted"].append(int(pose.inverted))
        made["mirrored"].append(int(pose.mirrored))
    return Views(**{name: np.array(values) for name, values in made.items()})


@cache
def _chest(cache_dir: Path) -> anatomy.Anatomy:
    return anatomy.load(cache_dir)


def _of_patient(task: tuple[Path, Set, int]) -> tuple[list[UInt8Array], list[int]]:
    cache_dir, part, number = task
    rng = np.random.default_rng([SEED, _NUMBER[part], 0, number])
    patient = anatomy.vary(_chest(cache_dir), rng)
    images, kinds = [], []
    made: tuple[Iterator[UInt8Array], ...] = (
        projections.frontal(patient, rng, films=FRONTAL),
        projections.lateral(patient, rng, films=LATERAL),
        projections.elsewhere(patient, rng, films=ELSEWHERE),
    )
    for kind, several in enumerate(made):
        for image in several:
            images.append(image)
            kinds.append(kind)
    return images, kinds


def _pictures(part: Set) -> Sequence[Float32Array]:
    found = [_picture(name) for name in PICTURES[part]]
    if part != "val":  # one photograph is for training, the other for the figures
        photograph = load_sample_images().images[_NUMBER[part] // 2]
        found.append(photograph.mean(axis=2).astype(np.float32))
    return found


def _picture(name: str) -> Float32Array:
    path = get_testdata_file(name, download=False)
    if path is None:
        raise DataError(f"{name} is missing.", next_step="Install `hilum[embedded]`.")
    pixels = np.asarray(pydicom.dcmread(str(path)).pixel_array, dtype=np.float32)
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        pixels = pixels[len(pixels) // 2]
    return pixels.mean(axis=2) if pixels.ndim == 3 else pixels
