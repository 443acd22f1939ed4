"""What the readers of all data sets share: rows and their fields, label vectors, splits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from hilum.packages.labels import LabelSchema
from trainer import manifest, splits
from trainer.errors import DataError
from trainer.manifest import Record, Split

T = TypeVar("T")
SHARES: Final[dict[Split, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}  # by default
OLDEST: Final = 120.0  # years; a larger age is a mistake
_AGE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", re.IGNORECASE)
_YEARS: Final = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_SEX: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}
_VIEW: Final = {"pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "ap semi erect": "AP"}
_LATERAL: Final = {"l", "ll", "rl", "lateral", "lat"}


def parse_rows(
    table: Iterable[Mapping[str, str]], name: str, parse: Callable[[Mapping[str, str]], T]
) -> list[T]:
    """What ``parse`` makes of each row of the table ``name``.

    Raises:
        DataError: a column is missing, or ``parse`` raised ``ValueError``, whose text it gives.
    """
    found = []
    for line, row in enumerate(table, 2):
        try:
            found.append(parse(row))
        except KeyError as error:
            raise DataError(f"{name}: there is no column {error}.") from None
        except ValueError as error:
            raise DataError(f"{name} line {line}: {error}.") from None
    return found


def targets(present: Collection[str], schema: LabelSchema) -> tuple[float, ...]:
    """1 for each label of ``schema`` that is in ``present``, else 0; in the order of the schema."""
    return tuple(float(label in present) for label in schema.labels)


def present(record: Record, schema: LabelSchema) -> frozenset[str]:
    """The labels of ``schema`` whose target in ``record`` is 1."""
    return frozenset(n for n, t in zip(schema.labels, record.targets, strict=True) if t == 1)


def split_by_patient(
    records: Sequence[Record], shares: Mapping[Split, float], *, seed: int
) -> list[Record]:
    """``records`` with new splits, cut by patient and stratified by label and view.

    Raises:
        DataError: there are fewer patients than splits.
    """
    chosen = splits.by_patient(
        [record.patient for record in records],
        [(*record.targets, float(record.view == "AP")) for record in records],
        shares,
        seed=seed,
    )
    return [replace(record, split=split) for record, split in zip(records, chosen, strict=True)]


def checked(records: Sequence[Record], name: str = "The data set") -> list[Record]:
    """``records`` split by split, as a data-set table lists them.

    Raises:
        PatientLeakError: a patient is in two splits; the text begins with ``name``.
    """
    manifest.check_patients(records, name)
    return splits.ordered(records)


def age(text: str) -> float:
    """Years of ``58``, ``058Y``, ``018M``, ``012W`` or ``003D`` (PS3.5 section 6.2, VR AS).

    NaN if the text is not an age, or the age is above :data:`OLDEST`: the first release of
    ChestX-ray14 has patients of 411 years.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        return math.nan
    years = float(found[1]) * _YEARS[found[2].upper()]
    return years if years <= OLDEST else math.nan


def sex(text: str) -> str:
    """``M``, ``F``, or empty for anything else."""
    return _SEX.get(text.strip().lower(), "")


def view(text: str) -> str:
    """``PA``, ``AP``, ``LATERAL``, or empty for anything else."""
    word = " ".join(text.replace("_", " ").lower().split())
    return "LATERAL" if word in _LATERAL else _VIEW.get(word, "")
