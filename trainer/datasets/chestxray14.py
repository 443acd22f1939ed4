"""ChestX-ray14 (Wang et al., CVPR 2017) from its own tables.

``Data_Entry_2017.csv`` (or ``…_v2020.csv``), ``train_val_list.txt`` and ``test_list.txt``, and
``BBox_List_2017.csv``, whose columns carry commas inside square brackets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hilum.packages.labels import CHESTXRAY14
from trainer import manifest, splits
from trainer.datasets import fields, real_tables
from trainer.errors import DataError
from trainer.manifest import Box, Record, Split

IMAGES: Final = 112_120
PATIENTS: Final = 30_805
TRAIN_VAL: Final = 86_524
TEST: Final = 25_596
_NORMAL: Final = "No Finding"
_BOX_SPELLING: Final = {"Infiltrate": "Infiltration"}  # of BBox_List_2017.csv alone


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of ``Data_Entry_2017.csv``."""

    image: str  # file name
    patient: str
    labels: frozenset[str]  # empty: no finding
    age: float  # years, NaN if not to be believed
    sex: str
    view: str

    @property
    def targets(self) -> tuple[float, ...]:
        """In the order of :data:`hilum.packages.labels.CHESTXRAY14`."""
        return tuple(float(label in self.labels) for label in CHESTXRAY14.labels)


def entries(table: Iterable[Mapping[str, str]]) -> list[Entry]:
    """The rows of ``Data_Entry_2017.csv``, by column.

    Raises:
        DataError: a column is missing, a label is none of the fourteen, or an image is listed
            twice.
    """
    found = [_entry(row, n) for n, row in enumerate(table, 2)]
    twice = len(found) - len({entry.image for entry in found})
    if twice:
        raise DataError(f"Data_Entry_2017 lists {twice} images twice.")
    if not found:
        raise DataError("Data_Entry_2017 lists no image.")
    return found


def boxes(table: Iterable[Mapping[str, str]]) -> dict[str, tuple[Box, ...]]:
    """The boxes of each image of ``BBox_List_2017.csv``, in pixels of the released 1024² PNG.

    Raises:
        DataError: a column is missing, a number is none, or a label is none of the fourteen.
    """
    found: dict[str, tuple[Box, ...]] = {}
    for n, row in enumerate(table, 2):
        where = f"BBox_List_2017 line {n}"
        try:
            label = _BOX_SPELLING.get(row["Finding Label"], row["Finding Label"])
            x, y, width, height = (float(row[name]) for name in ("Bbox [x", "y", "w", "h]"))
        except KeyError as error:
            raise DataError(f"{where}: there is no column {error}.") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from None
        if label not in CHESTXRAY14.labels:
            raise DataError(f"{where}: {label!r} is no label of {CHESTXRAY14.id}.")
        box = Box(label=label, x0=x, y0=y, x1=x + width, y1=y + height)
        found[row["Image Index"]] = (*found.get(row["Image Index"], ()), box)
    return found


def differences(
    table: bytes, found: Sequence[Entry], train_val: Sequence[str], test: Sequence[str]
) -> list[str]:
    """What is not as published, in words: figures on it are not comparable with others'.

    Args:
        table: ``Data_Entry_2017….csv`` itself.
        found: its entries.
        train_val, test: file names, of the lists.
    """
    said = []
    if hashlib.sha256(table).hexdigest() != real_tables.SHA256["Data_Entry_2017_v2020"]:
        said.append("Data_Entry_2017 is not the release of 2020, byte for byte.")
    counts = {
        "images in Data_Entry_2017": (len(found), IMAGES),
        "patients in Data_Entry_2017": (len({entry.patient for entry in found}), PATIENTS),
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
    found: Sequence[Entry],
    *,
    uri_of: Callable[[str], str],
    train_val: Collection[str],
    test: Collection[str],
    boxed: Mapping[str, tuple[Box, ...]],
    val_share: float = 0.125,
    seed: int = 0,
) -> list[Record]:
    """A data-set table's records of ``found``, split by split.

    The official test list stays the test split; validation is cut from the official train+val
    list by patient, stratified by label and view, with ``val_share`` of its images.

    Args:
        uri_of: where the image of a file name is.
        train_val, test: file names, of the official lists.
        boxed: see :func:`boxes`.

    Raises:
        DataError: an image is in neither or both of the lists, or a patient is in both.
    """
    both = len(set(train_val) & set(test))
    if both:
        raise DataError(f"{both} images are in train_val_list and in test_list.")
    unlisted = len({entry.image for entry in found} - set(train_val) - set(test))
    if unlisted:
        raise DataError(f"{unlisted} images are in neither train_val_list nor test_list.")
    tested = {entry.image for entry in found} & set(test)
    rest = [entry for entry in found if entry.image not in tested]
    shares: dict[Split, float] = {"train": 1 - val_share, "val": val_share}
    cut = splits.by_patient(
        [entry.patient for entry in rest],
        [(*entry.targets, float(entry.view == "AP")) for entry in rest],
        shares,
        seed=seed,
    )
    split_of = dict(zip([entry.image for entry in rest], cut, strict=True))
    made = [
        Record(
            uri=uri_of(entry.image),
            patient=entry.patient,
            split=split_of.get(entry.image, "test"),
            targets=entry.targets,
            boxes=boxed.get(entry.image, ()),
            view=entry.view,
            sex=entry.sex,
            age=entry.age,
            site="NIH",
        )
        for entry in found
    ]
    manifest.check_patients(made)
    return splits.ordered(made)


def _entry(row: Mapping[str, str], line: int) -> Entry:
    try:
        words = frozenset(row["Finding Labels"].split("|")) - {_NORMAL}
        odd = words - set(CHESTXRAY14.labels)
        if odd:
            raise DataError(f"Data_Entry_2017 line {line}: {min(odd)!r} is none of the labels.")
        return Entry(
            image=row["Image Index"],
            patient=row["Patient ID"],
            labels=words,
            age=fields.age(row["Patient Age"]),
            sex=fields.sex(row.get("Patient Gender") or row.get("Patient Sex") or ""),
            view=fields.view(row["View Position"]),
        )
    except KeyError as error:
        raise DataError(f"Data_Entry_2017: there is no column {error}.") from None
