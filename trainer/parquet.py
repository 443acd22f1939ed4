"""Tables as Parquet. pyarrow is imported only when a table is read or written."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hilum.errors import MissingExtraError
from trainer.errors import DataError


def dumps(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str]
) -> bytes:
    """The table as a Parquet file. ``numbers`` are columns of doubles, null where a cell is empty;
    the others are columns of strings.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
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


def rows(path: Path) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The columns of the file at ``path``, and its rows as the CSV would have them.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: it is not a Parquet file.
    """
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
