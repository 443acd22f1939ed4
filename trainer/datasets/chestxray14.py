"""ChestX-ray14 (Wang et al., CVPR 2017), read from its own tables.

The tables are ``Data_Entry_2017.csv`` (or ``…_v2020.csv``), ``train_val_list.txt``,
``test_list.txt`` and ``BBox_List_2017.csv``, whose column names contain commas in brackets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hilum.packages.labels import CHESTXRAY14
from trainer import wheels
from trainer.datasets.records import (
    age,
    checked,
    parse_rows,
    sex,
    split_by_patient,
    targets,
    view,
)
from trainer.errors import DataError
from trainer.manifest import Box, Record

IMAGES: Final = 112_120
PATIENTS: Final = 30_805
TRAIN_VAL: Final = 86_524
TEST: Final = 25_596
_NORMAL: Final = "No Finding"
_BOX_SPELLING: Final = {"Infiltrate": "Infiltration"}  # only BBox_List_2017.csv writes it so


def entries(table: Iterable[Mapping[str, str]]) -> list[Record]:
    """The rows of ``Data_Entry_2017.csv`` as records.

    The address of a record is the name of its file; its split is not decided yet.

    Raises:
        DataError: a column is missing, a label is not one of the fourteen, or an image is listed
            twice.
    """
    found = parse_rows(table, "Data_Entry_2017", _record)
    twice = len(found) - len({record.uri for record in found})
    if twice:
        raise DataError(f"Data_Entry_2017 lists {twice} images twice.")
    if not found:
        raise DataError("Data_Entry_2017 lists no image.")
    return found


def boxes(table: Iterable[Mapping[str, str]]) -> dict[str, tuple[Box, ...]]:
    """The boxes of ``BBox_List_2017.csv`` by image, in pixels of the released 1024² PNG.

    Raises:
        DataError: a column is missing, a value is not a number, or a label is not one of the
            fourteen.
    """
    found: dict[str, tuple[Box, ...]] = {}
    for image, box in parse_rows(table, "BBox_List_2017", _box):
        found[image] = (*found.get(image, ()), box)
    return found


def differences(
    table: bytes, found: Sequence[Record], train_val: Sequence[str], test: Sequence[str]
) -> list[str]:
    """Sentences on what differs from the publication: figures on such a copy are not comparable.

    ``table`` is the file ``Data_Entry_2017….csv``, ``found`` its records; lists hold file names.
    """
    said = []
    if hashlib.sha256(table).hexdigest() != wheels.SHA256["Data_Entry_2017_v2020"]:
        said.append("Data_Entry_2017 is not the release of 2020, byte for byte.")
    counts = {
        "images in Data_Entry_2017": (len(found), IMAGES),
        "patients in Data_Entry_2017": (len({record.patient for record in found}), PATIENTS),
        "images in train_val_list": (len(train_val), TRAIN_VAL),
        "images in test_list": (len(test), TEST),
    }
    said += [
        f"There are {own:,} {what}; published: {published:,}."
        for what, (own, published) in counts.items()
        if own != published
    ]
    return said


def records(
    found: Sequence[Record],
    *,
    train_val: Collection[str],
    test: Collection[str],
    boxed: Mapping[str, tuple[Box, ...]],
    val_share: float = 0.125,
    seed: int = 0,
) -> list[Record]:
    """``found`` with boxes and splits, split by split.

    The official test list stays the test split. The validation split is cut by patient from the
    official train+val list, stratified by label and view, with ``val_share`` of its images.

    ``train_val`` and ``test`` hold the file names of the official lists; ``boxed``: :func:`boxes`.

    Raises:
        DataError: an image is in neither or both of the lists, or a patient is in both.
    """
    listed, tested = set(train_val), set(test)
    both = len(listed & tested)
    if both:
        raise DataError(f"{both} images are in train_val_list and in test_list.")
    unlisted = len({record.uri for record in found} - listed - tested)
    if unlisted:
        raise DataError(f"{unlisted} images are in neither train_val_list nor test_list.")
    found = [replace(record, boxes=boxed.get(record.uri, ())) for record in found]
    rest = [record for record in found if record.uri not in tested]
    cut = split_by_patient(rest, {"train": 1 - val_share, "val": val_share}, seed=seed)
    cut += [replace(record, split="test") for record in found if record.uri in tested]
    return checked(cut)


def _record(row: Mapping[str, str]) -> Record:
    labels = set(row["Finding Labels"].split("|")) - {_NORMAL}
    if odd := labels - set(CHESTXRAY14.labels):
        raise ValueError(f"{min(odd)!r} is none of the labels")
    return Record(
        uri=row["Image Index"],
        patient=row["Patient ID"],
        split="train",
        targets=targets(labels, CHESTXRAY14),
        age=age(row["Patient Age"]),
        sex=sex(row.get("Patient Gender") or row.get("Patient Sex") or ""),
        view=view(row["View Position"]),
        site="NIH",
    )


def _box(row: Mapping[str, str]) -> tuple[str, Box]:
    label = _BOX_SPELLING.get(row["Finding Label"], row["Finding Label"])
    x, y, width, height = (float(row[name]) for name in ("Bbox [x", "y", "w", "h]"))
    if label not in CHESTXRAY14.labels:
        raise ValueError(f"{label!r} is not a label of {CHESTXRAY14.id}")
    return row["Image Index"], Box(label=label, x0=x, y0=y, x1=x + width, y1=y + height)
