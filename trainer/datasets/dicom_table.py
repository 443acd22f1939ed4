"""DICOM films in a folder or below an S3 prefix, with a CSV table of their labels.

The table has a column ``file`` (the address of the film relative to the folder or prefix) or
``sop_instance_uid``, and one column for each label of the schema: ``1``, ``0``, a number between,
or empty for an unknown label. It may have ``patient``, ``view``, ``sex``, ``age``, ``site`` and
``split``. An empty or missing cell of the first four is filled from the header.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast, get_args

import pydicom
from pydicom.dataset import Dataset

from hilum.errors import HilumError, NotDicomError
from hilum.packages.labels import LabelSchema
from hilum.storage import ObjectStore
from trainer.datasets import records as fields
from trainer.datasets.records import SHARES, checked, split_by_patient
from trainer.errors import DataError
from trainer.manifest import Record, Split

KEYS: Final = ("file", "sop_instance_uid")
_TAGS: Final = ["SOPInstanceUID", "PatientID", "PatientSex", "PatientAge", "ViewPosition"]

Pseudonym = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Film:
    """One DICOM object and what its header says. Its repr shows neither UID nor patient."""

    file: str  # address relative to the folder or prefix
    sop_instance_uid: str
    record: Record  # what the header says, without targets

    def __repr__(self) -> str:
        return "Film(…)"


def pseudonym(key: bytes) -> Pseudonym:
    """A function that turns Patient IDs into pseudonyms (HMAC-SHA-256 with ``key``).

    Without the key, nobody can compute a pseudonym from an ID. A plain hash would not do: trying
    all IDs of a hospital takes a second.
    """
    return lambda patient: hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:24]


def read_key(path: Path) -> bytes:
    """The secret in ``path``. If the file does not exist, it is created for its owner alone.

    Raises:
        DataError: the file is too short, or cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) < 16:
            raise DataError(
                f"{path.name} is too short for a key: it must have at least 16 bytes."
            ) from None
        return found
    except OSError as error:
        raise DataError(f"{path.name} cannot be written ({error.strerror}).") from None
    with os.fdopen(descriptor, "wb") as file:
        secret = secrets.token_bytes(32)
        file.write(secret)
    return secret


def scan(
    prefix: str,
    store: ObjectStore,
    name: Pseudonym,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Film], int]:
    """Every DICOM object below ``prefix``, and the number of other objects.

    Raises:
        DataError: there is no DICOM object.
        HilumError: the prefix cannot be listed, or the store is unavailable.
    """
    films: list[Film] = []
    others = 0
    root = prefix.rstrip("/") + "/"
    for uri in store.iter_uris(prefix):
        try:
            films.append(_film(uri, uri.removeprefix(root), store.read(uri), name))
        except HilumError as error:
            if error.transient:
                raise
            others += 1
        if progress is not None:
            progress(len(films) + others)
    if not films:
        raise DataError("There is no DICOM object at that address.")
    return films, others


def records(
    films: Sequence[Film],
    table: Iterable[Mapping[str, str]],
    schema: LabelSchema,
    *,
    name: Pseudonym,
    site: str = "",
    allow_missing: bool = False,
    seed: int = 0,
) -> tuple[list[Record], int]:
    """The records of the films that ``table`` names, split by split, and the number of rows
    without a film.

    If the column ``split`` is missing or empty, splits are made by patient, stratified by label
    and view.

    Args:
        films: see :func:`scan`.
        name: makes the pseudonyms of the patients that the table names.
        site: the site of films for which the table names none.
        allow_missing: whether rows without a film are left out; else they are an error.

    Raises:
        DataError: a column is missing, or the format does not allow a value.
        PatientLeakError: the table's own splits share patients.
    """
    rows = list(table)
    if not rows:
        raise DataError("The table has no row.")
    key = next((column for column in KEYS if column in rows[0]), None)
    lacking = [label for label in schema.labels if label not in rows[0]]
    if key is None or lacking:
        wanted = lacking or ["file or sop_instance_uid"]
        raise DataError(f"The table lacks the columns: {', '.join(wanted)}.")
    known = {getattr(film, key): film.record for film in films}
    found = [(n, row, known.get(row[key].strip())) for n, row in enumerate(rows, 2)]
    missing = sum(header is None for _, _, header in found)
    if missing and not allow_missing:
        raise DataError(
            f"{missing} of {len(rows)} rows have no film.",
            next_step="Complete the films, correct the table, or use --allow-missing.",
        )
    made = [_record(row, n, header, schema, name, site) for n, row, header in found if header]
    if not made:
        raise DataError("No row of the table has a film.")
    given = [_cell(row, "split") for _, row, header in found if header]
    if not any(given):
        made = split_by_patient(made, SHARES, seed=seed)
    elif set(given) - set(get_args(Split)):
        raise DataError("A split of the table is not train, val or test.")
    else:
        made = [replace(r, split=cast(Split, s)) for r, s in zip(made, given, strict=True)]
    return checked(made, "The table"), missing


def _film(uri: str, file: str, data: bytes, name: Pseudonym) -> Film:
    dataset = _header(data)

    def text(keyword: str) -> str:
        try:
            return str(dataset.get(keyword) or "").strip()
        except Exception:  # pydicom converts a value when it is read, and may fail on it
            return ""

    uid, patient = text("SOPInstanceUID"), text("PatientID")
    if not uid:
        raise NotDicomError("The object has no SOP Instance UID.")
    header = Record(
        uri=uri,
        # Films without a Patient ID must not all become one patient.
        patient=name(patient or f"film/{uid}"),
        split="train",
        targets=(),
        view=fields.view(text("ViewPosition")),
        sex=fields.sex(text("PatientSex")),
        age=fields.age(text("PatientAge")),
    )
    return Film(file=file, sop_instance_uid=uid, record=header)


def _header(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=_TAGS)
        except Exception:  # the text of any exception may hold a value of the header
            raise NotDicomError("The object is not a DICOM file.") from None


def _record(  # noqa: PLR0917 -- one call
    row: Mapping[str, str],
    line: int,
    header: Record,
    schema: LabelSchema,
    name: Pseudonym,
    site: str,
) -> Record:
    cells = [_cell(row, label) for label in schema.labels]
    try:
        targets = tuple(float(cell) if cell else math.nan for cell in cells)
    except ValueError:
        raise DataError(f"Line {line} of the table: a label is not a number.") from None
    if any(t < 0 or t > 1 for t in targets):
        raise DataError(f"Line {line} of the table: a label must be empty or from 0 to 1.")
    patient, age = _cell(row, "patient"), _cell(row, "age")
    return replace(
        header,
        patient=name(patient) if patient else header.patient,
        targets=targets,
        view=fields.view(_cell(row, "view")) or header.view,
        sex=fields.sex(_cell(row, "sex")) or header.sex,
        age=fields.age(age) if age else header.age,
        site=_cell(row, "site") or site,
    )


def _cell(row: Mapping[str, str], column: str) -> str:
    return (row.get(column) or "").strip()
