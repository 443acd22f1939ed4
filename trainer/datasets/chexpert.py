"""CheXpert (Irvin et al., AAAI 2019) from ``train.csv`` and ``valid.csv``.

Labels are ``1``, ``0``, ``-1`` for «the report is not sure», or empty for «not mentioned».
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from hilum.packages.labels import CHEXPERT
from trainer import manifest, splits
from trainer.datasets import fields
from trainer.errors import DataError
from trainer.manifest import Record, Split

Uncertain = Literal["ignore", "ones", "zeros", "soft"]
Unmentioned = Literal["zeros", "ignore"]

POLICIES: Final[tuple[Uncertain, ...]] = get_args(Uncertain)
# The middle of the 0.55 … 0.85 that Pham et al. (Neurocomputing 2021) draw from.
SOFT: Final = 0.7
_VALUE: Final[dict[Uncertain, float]] = {
    "ignore": math.nan,
    "ones": 1.0,
    "zeros": 0.0,
    "soft": SOFT,
}
_PATIENT: Final = re.compile(r"(?:^|/)(patient\d+)/")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table."""

    path: str  # as the table has it
    patient: str
    labels: tuple[str, ...]  # as the table has them, in the order of the schema
    age: float
    sex: str
    view: str


def entries(table: Iterable[Mapping[str, str]]) -> list[Entry]:
    """The rows of ``train.csv`` or ``valid.csv``, by column.

    Raises:
        DataError: a column is missing, a label is none of those values, or a path names no
            patient.
    """
    return [_entry(row, n) for n, row in enumerate(table, 2)]


def records(
    train: Iterable[Entry],
    valid: Iterable[Entry],
    *,
    uncertain: Uncertain | Mapping[str, Uncertain],
    unmentioned: Unmentioned = "zeros",
    laterals: bool = False,
    val_share: float = 0.05,
    seed: int = 0,
) -> list[Record]:
    """A data-set table's records, split by split.

    ``valid.csv``, whose labels are radiologists', is the test split; validation is cut from
    ``train.csv`` by patient, stratified by label and view. Only training follows ``uncertain``: a
    film that nobody is sure of measures nothing.

    Args:
        uncertain: what ``-1`` becomes, for all labels or by label (those not named: ``ignore``).
            ``soft`` is 0.7, the middle of 0.55 … 0.85 of Pham et al. 2021.
        unmentioned: what an empty label becomes; the field counts it as negative.
        laterals: whether lateral films are kept.

    Raises:
        DataError: a label that is not in the schema, or no film is left.
        PatientLeakError: a patient is in both tables.
    """
    policy: Mapping[str, Uncertain]
    policy = dict.fromkeys(CHEXPERT.labels, uncertain) if isinstance(uncertain, str) else uncertain
    odd = set(policy) - set(CHEXPERT.labels)
    if odd:
        raise DataError(f"{min(odd)!r} is no label of {CHEXPERT.id}.")
    kept = [entry for entry in train if laterals or entry.view != "LATERAL"]
    tested = [entry for entry in valid if laterals or entry.view != "LATERAL"]
    shares: dict[Split, float] = {"train": 1 - val_share, "val": val_share}
    cut = splits.by_patient(
        [entry.patient for entry in kept],
        [[*(float(v == "1.0") for v in e.labels), float(e.view == "AP")] for e in kept],
        shares,
        seed=seed,
    )
    empty = 0.0 if unmentioned == "zeros" else math.nan
    made = [_record(e, split, policy, empty) for e, split in zip(kept, cut, strict=True)]
    made += [_record(entry, "test", policy, empty) for entry in tested]
    manifest.check_patients(made, "CheXpert")
    return splits.ordered(made)


def _record(entry: Entry, split: Split, policy: Mapping[str, Uncertain], empty: float) -> Record:
    def value(label: str, text: str) -> float:
        if text == "-1.0":
            return _VALUE[policy.get(label, "ignore") if split == "train" else "ignore"]
        return float(text) if text else empty

    return Record(
        uri=entry.path,
        patient=entry.patient,
        split=split,
        targets=tuple(value(n, v) for n, v in zip(CHEXPERT.labels, entry.labels, strict=True)),
        view=entry.view,
        sex=entry.sex,
        age=entry.age,
        site="Stanford",
    )


def _entry(row: Mapping[str, str], line: int) -> Entry:
    try:
        found = _PATIENT.search(row["Path"])
        if found is None:
            raise DataError(f"CheXpert line {line}: the path names no patient.")
        labels = tuple(_label(row[label], line) for label in CHEXPERT.labels)
        view = "LATERAL" if row["Frontal/Lateral"] == "Lateral" else fields.view(row["AP/PA"])
        return Entry(
            path=row["Path"],
            patient=found[1],
            labels=labels,
            age=fields.age(row["Age"]),
            sex=fields.sex(row["Sex"]),
            view=view,
        )
    except KeyError as error:
        raise DataError(f"CheXpert: there is no column {error}.") from None


def _label(text: str, line: int) -> str:
    """``1.0``, ``0.0``, ``-1.0`` or empty, however it is written."""
    if not text:
        return ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in {1.0, 0.0, -1.0}:
        raise DataError(f"CheXpert line {line}: a label is none of 1, 0, -1 and empty.")
    return f"{value:.1f}"
