"""A folder for each class, as in the public sets of COVID-19, tuberculosis and pneumonia films.

Films are at ``ROOT/CLASS/film.png`` or ``ROOT/CLASS/images/film.png`` (other folders beside
``images``, such as ``masks``, are not read), or at the same places below ``ROOT/train``,
``ROOT/val`` and ``ROOT/test``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hilum.packages.labels import LabelSchema
from trainer import splits
from trainer.datasets.records import SHARES, checked, targets
from trainer.errors import DataError
from trainer.manifest import Record, Split

FILMS: Final = {".png", ".jpg", ".jpeg", ".dcm", ".dicom"}
_SPLITS: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# What the sets of covid-tb-pneumonia-v1 call their classes, in letters and digits only.
_CLASSES: Final = {
    "covid": "COVID-19",
    "covid19": "COVID-19",
    "tb": "Tuberculosis",
    "tuberculosis": "Tuberculosis",
    "bacterialpneumonia": "Pneumonia",
    "viralpneumonia": "Pneumonia",
    "healthy": "Normal",
}


@dataclass(frozen=True, kw_only=True)
class Film:
    """A file, and what its path says about it."""

    path: Path
    label: str
    split: Split | None
    site: str
    patient: str | None  # None: the name does not say


def find(
    roots: Sequence[Path],
    schema: LabelSchema,
    *,
    classes: Mapping[str, str] | None = None,
    skip: Collection[str] = (),
    patient: re.Pattern[str] | None = None,
) -> list[Film]:
    """Every film below ``roots``. Each root is a site, so that sources can be told apart.

    Args:
        classes: the label of class folders whose own name does not say it.
        skip: class folders to leave out.
        patient: matched in the name of each file; its first group is the patient.

    Raises:
        DataError: a root has no film in a class folder, or a class folder has no label.
    """
    found: list[Film] = []
    for root in roots:
        before = len(found)
        for split, folder in _split_folders(root):
            for entry in sorted(path for path in folder.iterdir() if path.is_dir()):
                if entry.name in skip or entry.name.startswith("."):
                    continue
                label = (classes or {}).get(entry.name) or _label(entry.name, schema)
                for path in _films(entry):
                    match = patient.search(path.name) if patient else None
                    name = f"{root.name}-{match[1]}" if match else None
                    found.append(
                        Film(path=path, label=label, split=split, site=root.name, patient=name)
                    )
        if len(found) == before:
            raise DataError(
                f"There is no film in a class folder below {root}.",
                next_step=f"Films end in {', '.join(sorted(FILMS))}; see docs/use/data-sets.md.",
            )
    return found


def records(
    films: Sequence[Film], schema: LabelSchema, *, base: Path, seed: int = 0
) -> list[Record]:
    """The records of ``films``, split by split, with addresses relative to ``base``.

    Validation and test films of the set stay validation and test films. A split that the set
    lacks is cut from the rest by patient, stratified by class and site. A film whose patient is
    unknown counts as a patient of its own.

    Raises:
        PatientLeakError: the set's own splits share patients.
    """
    names = [
        film.patient or "film-" + hashlib.sha256(str(film.path).encode()).hexdigest()[:16]
        for film in films
    ]
    given = {film.split for film in films} - {None}
    rest = [n for n, film in enumerate(films) if film.split in {None, "train"}]
    shares = {split: share for split, share in SHARES.items() if split not in given - {"train"}}
    sites = sorted({film.site for film in films})
    cut = splits.by_patient(
        [names[n] for n in rest],
        [
            (*targets({films[n].label}, schema), *(float(films[n].site == site) for site in sites))
            for n in rest
        ],
        shares,
        seed=seed,
    )
    split_of = dict(zip(rest, cut, strict=True))
    made = [
        Record(
            uri=os.path.relpath(film.path, base),
            patient=names[n],
            split=split_of.get(n) or film.split or "train",
            targets=targets({film.label}, schema),
            site=film.site,
        )
        for n, film in enumerate(films)
    ]
    return checked(made, "The set's own splits")


def _split_folders(root: Path) -> Iterator[tuple[Split | None, Path]]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    own = [path for path in sorted(root.iterdir()) if path.name.lower() in _SPLITS]
    if not own:
        yield None, root
    for path in own:
        yield _SPLITS[path.name.lower()], path


def _films(folder: Path) -> Iterator[Path]:
    inner = folder / "images"
    for path in sorted((inner if inner.is_dir() else folder).rglob("*")):
        if path.suffix.lower() in FILMS and path.is_file():
            yield path


def _label(name: str, schema: LabelSchema) -> str:
    def plain(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    known = {plain(label): label for label in schema.labels}
    label = known.get(plain(name)) or _CLASSES.get(plain(name))
    if label not in schema.labels:
        raise DataError(
            f"The folder {name!r} is not a class of {schema.id}.",
            next_step=f"Name its label with --class {name}=LABEL, or leave it out with --skip.",
        )
    return str(label)
