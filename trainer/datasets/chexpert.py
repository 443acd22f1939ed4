"""CheXpert (Irvin et al., AAAI 2019), read from ``train.csv`` and ``valid.csv``.

A label is ``1``, ``0``, ``-1`` (the report is uncertain) or empty (the report does not mention it).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Literal, get_args

from hilum.packages.labels import CHEXPERT
from trainer.datasets.records import age, checked, parse_rows, sex, split_by_patient, view
from trainer.errors import DataError
from trainer.manifest import Record

Uncertain = Literal["ignore", "ones", "zeros", "soft"]
Unmentioned = Literal["zeros", "ignore"]

POLICIES: Final[tuple[Uncertain, ...]] = get_args(Uncertain)
UNCERTAIN: Final = -1.0
# The middle of the 0.55 … 0.85 that Pham et al. (Neurocomputing 2021) draw from.
SOFT: Final = 0.7
_VALUE: Final[dict[Uncertain, float]] = {
    "ignore": math.nan,
    "ones": 1.0,
    "zeros": 0.0,
    "soft": SOFT,
}
_PATIENT: Final = re.compile(r"(?:^|/)(patient\d+)/")


def entries(table: Iterable[Mapping[str, str]]) -> list[Record]:
    """The rows of ``train.csv`` or ``valid.csv`` as records.

    Their targets are those of the table: 1, 0, :data:`UNCERTAIN`, or NaN for a label that the
    report does not mention. Their split is not decided yet.

    Raises:
        DataError: a column is missing, a label has another value, or a path names no patient.
    """
    return parse_rows(table, "CheXpert", _record)


def records(
    train: Iterable[Record],
    valid: Iterable[Record],
    *,
    uncertain: Uncertain | Mapping[str, Uncertain],
    unmentioned: Unmentioned = "zeros",
    laterals: bool = False,
    val_share: float = 0.05,
    seed: int = 0,
) -> list[Record]:
    """The records of a data-set table, split by split.

    ``valid.csv``, which radiologists labelled, is the test split. The validation split is cut by
    patient from ``train.csv``, stratified by label and view. Only the training split follows
    ``uncertain``: elsewhere an uncertain label is unknown, because it measures nothing.

    Args:
        uncertain: what ``-1`` becomes, for all labels or by label (others: ``ignore``). ``soft``
            is 0.7, the middle of 0.55 … 0.85 of Pham et al. 2021.
        unmentioned: what an empty label becomes; publications count it as negative.
        laterals: whether to keep lateral films.

    Raises:
        DataError: a label is not in the schema, or no film is left.
        PatientLeakError: a patient is in both tables.
    """
    policy: Mapping[str, Uncertain]
    policy = dict.fromkeys(CHEXPERT.labels, uncertain) if isinstance(uncertain, str) else uncertain
    odd = set(policy) - set(CHEXPERT.labels)
    if odd:
        raise DataError(f"{min(odd)!r} is not a label of {CHEXPERT.id}.")
    empty = 0.0 if unmentioned == "zeros" else math.nan

    def decide(record: Record) -> Record:
        chosen = policy if record.split == "train" else {}
        values = {
            label: _VALUE[chosen.get(label, "ignore")] if target == UNCERTAIN else target
            for label, target in zip(CHEXPERT.labels, record.targets, strict=True)
            if not math.isnan(target)
        }
        return replace(record, targets=tuple(values.get(label, empty) for label in CHEXPERT.labels))

    kept = [record for record in train if laterals or record.view != "LATERAL"]
    tested = [record for record in valid if laterals or record.view != "LATERAL"]
    cut = split_by_patient(kept, {"train": 1 - val_share, "val": val_share}, seed=seed)
    cut += [replace(record, split="test") for record in tested]
    return checked([decide(record) for record in cut], "CheXpert")


def _record(row: Mapping[str, str]) -> Record:
    found = _PATIENT.search(row["Path"])
    if found is None:
        raise ValueError("the path names no patient")
    lateral = row["Frontal/Lateral"] == "Lateral"
    return Record(
        uri=row["Path"],
        patient=found[1],
        split="train",
        targets=tuple(_target(row[label]) for label in CHEXPERT.labels),
        view="LATERAL" if lateral else view(row["AP/PA"]),
        age=age(row["Age"]),
        sex=sex(row["Sex"]),
        site="Stanford",
    )


def _target(text: str) -> float:
    if not text:
        return math.nan
    with suppress(ValueError):
        if (value := float(text)) in {1.0, 0.0, UNCERTAIN}:
            return value
    raise ValueError("a label must be 1, 0, -1 or empty")
