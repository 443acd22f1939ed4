"""Data-set tables: CSV or Parquet, one row a film.

The columns are ``uri, patient, split, view, sex, age, site``, one column for each label of the
schema (``1``, ``0``, a number between for an uncertain label, or empty for an unknown label, which
is read as NaN), and ``boxes``: a JSON list of ``{"label", "x0", "y0", "x1", "y1"}`` in pixels of
the stored image, half-open. Parquet has the same columns: strings, and doubles with nulls.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from hilum.errors import MissingExtraError
from hilum.files import write_atomically
from hilum.packages.labels import LabelSchema
from trainer.errors import DataError, PatientLeakError

PARQUET: Final = ".parquet"
Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
_FIXED = ("uri", "patient", "split", "view", "sex", "age", "site")


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle around a finding, in pixels of the stored image; half-open."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One film of a data set."""

    uri: str  # relative to the data-set table's folder, absolute path, or s3://
    patient: str  # pseudonymous; splits never share one
    split: Split
    targets: tuple[float, ...]  # in schema order; NaN = unknown
    boxes: tuple[Box, ...] = ()
    view: str = ""
    sex: str = ""
    age: float = math.nan  # years
    site: str = ""


def write(path: Path, records: Iterable[Record], schema: LabelSchema) -> None:
    """Write ``records`` to ``path`` atomically: as Parquet if its name ends in .parquet, else CSV.

    Raises:
        DataError: the folder does not exist, or the disk is full.
        MissingExtraError: Parquet needs pyarrow, which is not installed.
    """
    columns = columns_of(schema)
    rows = [_row(record) for record in records]
    try:
        if path.suffix == PARQUET:
            data = _to_parquet(columns, rows, numbers={"age", *schema.labels})
        else:
            text = io.StringIO()
            out = csv.writer(text)
            out.writerow(columns)
            out.writerows(rows)
            data = text.getvalue().encode()
        write_atomically(path, data)
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be written ({error.strerror}).",
            next_step="Make room, or choose another folder that exists.",
        ) from None


def read(path: Path, schema: LabelSchema) -> list[Record]:
    """Read the data-set table at ``path``.

    Raises:
        DataError: the file is missing, does not have the columns of the schema, has a value that
            the format does not allow, or lists an object twice.
        PatientLeakError: a patient is in two splits.
    """
    if not path.is_file():
        raise DataError(f"There is no data-set table at {path}.")
    expected = columns_of(schema)
    rows: Iterator[dict[str, str]]
    if path.suffix == PARQUET:
        columns, rows = _read_parquet(path)
        records = _records(columns, rows, expected, path.name, schema)
    else:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            try:
                records = _records(table.fieldnames or (), table, expected, path.name, schema)
            except (UnicodeDecodeError, csv.Error) as error:
                raise DataError(f"{path.name} is not CSV ({type(error).__name__}).") from None
    _check(records, path.name)
    return records


def columns_of(schema: LabelSchema) -> list[str]:
    """The columns of a data-set table with ``schema``, in order."""
    return [*_FIXED, *schema.labels, "boxes"]


def check_patients(records: Iterable[Record], name: str = "The data set") -> None:
    """Check that no patient is in two splits.

    Raises:
        PatientLeakError: a patient is.
    """
    split_of: dict[str, str] = {}
    leaked = {r.patient for r in records if split_of.setdefault(r.patient, r.split) != r.split}
    if leaked:
        raise PatientLeakError(f"{name}: {len(leaked)} patients are in more than one split.")


def digest(path: Path) -> str:
    """sha256 of the file of a data-set table. It identifies the training data in a package."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _row(record: Record) -> list[str]:
    boxes = json.dumps([asdict(box) for box in record.boxes]) if record.boxes else ""
    numbers = ["" if math.isnan(n) else f"{n:g}" for n in (record.age, *record.targets)]
    fixed = [record.uri, record.patient, record.split, record.view, record.sex]
    return [*fixed, numbers[0], record.site, *numbers[1:], boxes]


def _records(
    columns: Sequence[str],
    rows: Iterable[dict[str, str]],
    expected: Sequence[str],
    name: str,
    schema: LabelSchema,
) -> list[Record]:
    if set(columns) != set(expected):
        missing = [column for column in expected if column not in columns]
        extra = sorted(set(columns) - set(expected))
        said = [f"it lacks {', '.join(missing)}"] if missing else []
        said += [f"it also has {', '.join(extra)}"] if extra else []
        raise DataError(f"{name} does not fit schema {schema.id!r}: {'; '.join(said)}.")
    return [_record(row, schema, f"{name} line {n}") for n, row in enumerate(rows, 2)]


def _record(row: dict[str, str], schema: LabelSchema, where: str) -> Record:
    if None in row or None in row.values():
        raise DataError(f"{where} does not have as many columns as the header.")
    if row["split"] not in get_args(Split):
        raise DataError(f"{where}: split must be one of {', '.join(get_args(Split))}.")
    if not row["uri"] or not row["patient"]:
        raise DataError(f"{where}: uri and patient must be given.")
    try:
        targets = tuple(_number(row[label]) for label in schema.labels)
        boxes = tuple(Box(**box) for box in json.loads(row["boxes"])) if row["boxes"] else ()
        age = _number(row["age"])
    except (ValueError, TypeError):
        # Without the value, which may be a name.
        raise DataError(f"{where}: age, a label or the boxes cannot be read.") from None
    if any(t < 0 or t > 1 for t in targets):
        raise DataError(f"{where}: every label must be empty or a number from 0 to 1.")
    if any(box.label not in schema.labels for box in boxes):
        raise DataError(f"{where}: the label of a box is not in schema {schema.id!r}.")
    return Record(
        uri=row["uri"],
        patient=row["patient"],
        split=cast(Split, row["split"]),
        targets=targets,
        boxes=boxes,
        view=sys.intern(row["view"]),
        sex=sys.intern(row["sex"]),
        age=age,
        site=sys.intern(row["site"]),
    )


@lru_cache(maxsize=4096)
def _number(text: str) -> float:
    """One float object for each value, because a large data set has millions of cells."""
    return float(text) if text else math.nan


def _check(records: Sequence[Record], name: str) -> None:
    if not records:
        raise DataError(f"{name} lists no films.")
    uris = {r.uri for r in records}
    if len(uris) != len(records):
        raise DataError(f"{name} lists {len(records) - len(uris)} films twice.")
    check_patients(records, name)


def _to_parquet(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str]
) -> bytes:
    """``numbers`` are columns of doubles, null where a cell is empty; the others hold strings."""
    pa, pq = _import_pyarrow()
    arrays = []
    for n, column in enumerate(columns):
        values = [row[n] for row in rows]
        if column in numbers:
            arrays.append(pa.array([float(v) if v else None for v in values], pa.float64()))
        else:
            arrays.append(pa.array(values, pa.string()))
    out = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(columns)), out, compression="zstd")
    return out.getvalue()


def _read_parquet(path: Path) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The columns of the file at ``path``, and its rows as the CSV would have them."""
    pa, pq = _import_pyarrow()
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise DataError(f"{path.name} is not a Parquet file.") from None
    return list(file.schema_arrow.names), _rows(file)


def _rows(file: Any) -> Iterator[dict[str, str]]:
    for batch in file.iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            yield {column: _text(value) for column, value in row.items()}


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return "" if value is None else str(value)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet needs pyarrow: install `hilum[train]`.") from None
