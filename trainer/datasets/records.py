"""What the readers of all data sets share: label vectors and splits by patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hilum.packages.labels import LabelSchema
from trainer import manifest, splits
from trainer.manifest import Record, Split

SHARES: Final[dict[Split, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}  # by default


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
