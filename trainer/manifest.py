"""The one table format of every data set: CSV, a row an image.

Columns: ``uri, patient, split, view, sex, age, site``, one column a label of the schema
(``1``, ``0``, or empty for «not known», read as NaN), and ``boxes``: JSON list of
``{"label", "x0", "y0", "x1", "y1"}`` in pixels of the stored image, half-open.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from hilum.errors import DataError
from hilum.labels import LabelSchema

Split = Literal["train", "val", "test"]
_FIXED = ("uri", "patient", "split", "view", "sex", "age", "site")


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a finding is, in pixels of the stored image; half-open."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a data set."""

    uri: str  # relative to the manifest's folder, absolute path, or s3://
    patient: str  # pseudonymous; splits never share one
    split: Split
    targets: tuple[float, ...]  # in schema order; NaN = not known
    boxes: tuple[Box, ...] = ()
    view: str = ""
    sex: str = ""
    age: float = math.nan  # years
    site: str = ""


def write(path: Path, records: Iterable[Record], schema: LabelSchema) -> None:
    """Write ``records`` to ``path`` atomically."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*_FIXED, *schema.labels, "boxes"])
        for r in records:
            age = "" if math.isnan(r.age) else f"{r.age:g}"
            targets = ["" if math.isnan(t) else f"{t:g}" for t in r.targets]
            boxes = json.dumps([vars(box) for box in r.boxes]) if r.boxes else ""
            fixed = [r.uri, r.patient, r.split, r.view, r.sex, age, r.site]
            out.writerow([*fixed, *targets, boxes])
    part.replace(path)


def read(path: Path, schema: LabelSchema) -> list[Record]:
    """Read the manifest at ``path``.

    Raises:
        DataError: the file is missing, has other columns than the schema, a value is not one
            the format allows, an image is listed twice, or a patient is in two splits.
    """
    if not path.is_file():
        raise DataError(f"There is no manifest at {path}.")
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        expected = {*_FIXED, *schema.labels, "boxes"}
        if set(rows.fieldnames or ()) != expected:
            odd = ", ".join(sorted(expected ^ set(rows.fieldnames or ())))
            raise DataError(f"{path.name} does not fit schema {schema.id!r}: columns {odd}.")
        records = [_record(row, schema, f"{path.name} line {n}") for n, row in enumerate(rows, 2)]
    _check(records, path.name)
    return records


def digest(path: Path) -> str:
    """sha256 of the manifest file: the training data's identity in the model package."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(row: dict[str, str], schema: LabelSchema, where: str) -> Record:
    if row["split"] not in get_args(Split):
        raise DataError(f"{where}: split must be one of {', '.join(get_args(Split))}.")
    try:
        targets = tuple(float(row[label]) if row[label] else math.nan for label in schema.labels)
        boxes = tuple(Box(**box) for box in json.loads(row["boxes"] or "[]"))
        age = float(row["age"]) if row["age"] else math.nan
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}.") from None
    if any(t < 0 or t > 1 for t in targets):
        raise DataError(f"{where}: a label is neither empty nor within 0 and 1.")
    if any(box.label not in schema.labels for box in boxes):
        raise DataError(f"{where}: a box carries a label outside schema {schema.id!r}.")
    return Record(
        uri=row["uri"],
        patient=row["patient"],
        split=cast(Split, row["split"]),
        targets=targets,
        boxes=boxes,
        view=row["view"],
        sex=row["sex"],
        age=age,
        site=row["site"],
    )


def _check(records: Sequence[Record], name: str) -> None:
    if not records:
        raise DataError(f"{name} lists no image.")
    uris = [r.uri for r in records]
    if len(set(uris)) != len(uris):
        raise DataError(f"{name} lists {len(uris) - len(set(uris))} images twice.")
    split_of: dict[str, str] = {}
    leaked = {r.patient for r in records if split_of.setdefault(r.patient, r.split) != r.split}
    if leaked:
        raise DataError(f"{name}: {len(leaked)} patients are in more than one split.")
