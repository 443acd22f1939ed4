"""DICOM films in a folder or below an S3 prefix, and a CSV that says what is on them.

The table has a column ``file`` (the film's address from the folder or prefix on) or
``sop_instance_uid``, and one for each label of the schema: ``1``, ``0``, a number between, or empty
for «not known». ``patient``, ``view``, ``sex``, ``age``, ``site`` and ``split`` are taken from it
where it has them, else from the header; site and split have no other source.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast, get_args

import pydicom
from pydicom.dataset import Dataset

from hilum.errors import HilumError, NotDicomError
from hilum.packages.labels import LabelSchema
from hilum.storage import ObjectStore
from trainer import manifest, splits
from trainer.datasets import fields
from trainer.errors import DataError
from trainer.manifest import Record, Split

KEYS: Final = ("file", "sop_instance_uid")
_TAGS: Final = ["SOPInstanceUID", "PatientID", "PatientSex", "PatientAge", "ViewPosition"]
_SHARES: Final[dict[Split, float]] = {"train": 0.7, "val": 0.1, "test": 0.2}

Pseudonym = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Film:
    """One object, and what its header says. Its repr shows no UID and no patient."""

    uri: str
    file: str  # from the folder or prefix on
    sop_instance_uid: str
    patient: str  # pseudonym
    sex: str
    age: float
    view: str

    def __repr__(self) -> str:
        return "Film(…)"


def pseudonym(key: bytes) -> Pseudonym:
    """Patient IDs to names that only who has ``key`` can make again (HMAC-SHA-256).

    A plain hash would not do: all IDs of a hospital are tried in a second.
    """
    return lambda patient: hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:24]


def scan(
    prefix: str,
    store: ObjectStore,
    name: Pseudonym,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Film], int]:
    """Every DICOM object below ``prefix``, and how many others there are.

    Raises:
        HilumError: the prefix cannot be listed, or the store is not to be had.
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
    """The records of the films that ``table`` names, split by split, and how many rows
    had no film.

    Without a column ``split``, splits are made by patient, stratified by label and view.

    Args:
        name: of the patients that the table names.
        site: where the table does not say.
        allow_missing: rows without a film are left out in place of an error.

    Raises:
        DataError: a column is missing or a value is none that the format allows.
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
    known = {getattr(film, key): film for film in films}
    found = [(n, row, known.get(row[key].strip())) for n, row in enumerate(rows, 2)]
    missing = sum(film is None for _, _, film in found)
    if missing and not allow_missing:
        raise DataError(
            f"{missing} of {len(rows)} rows have no film.",
            next_step="Complete the films, correct the table, or leave them out: --allow-missing.",
        )
    made = [
        replace(_record(row, n, film, schema, name), site=_said(row, "site") or site)
        for n, row, film in found
        if film is not None
    ]
    if not made:
        raise DataError("No row of the table has a film.")
    given = [_said(row, "split") for _, row, film in found if film is not None]
    if any(given):
        odd = set(given) - set(get_args(Split))
        if odd:
            raise DataError("A split of the table is none of train, val and test.")
        chosen = [cast(Split, split) for split in given]
    else:
        chosen = splits.by_patient(
            [record.patient for record in made],
            [(*record.targets, float(record.view == "AP")) for record in made],
            _SHARES,
            seed=seed,
        )
    made = [replace(record, split=split) for record, split in zip(made, chosen, strict=True)]
    manifest.check_patients(made, "The table")
    return splits.ordered(made), missing


def _film(uri: str, file: str, data: bytes, name: Pseudonym) -> Film:
    dataset = _header(data)

    def text(keyword: str) -> str:
        try:
            return str(dataset.get(keyword) or "").strip()
        except Exception:  # pydicom converts, and may fail on, a value only when it is read
            return ""

    uid, patient = text("SOPInstanceUID"), text("PatientID")
    if not uid:
        raise NotDicomError("The object has no SOP Instance UID.")
    return Film(
        uri=uri,
        file=file,
        sop_instance_uid=uid,
        # Nobody's films must not all become one patient.
        patient=name(patient or f"film/{uid}"),
        sex=fields.sex(text("PatientSex")),
        age=fields.age(text("PatientAge")),
        view=fields.view(text("ViewPosition")),
    )


def _header(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=_TAGS)
        except Exception:  # whatever it is, its text may hold a value
            raise NotDicomError("The object is no DICOM file.") from None


def _record(
    row: Mapping[str, str], line: int, film: Film, schema: LabelSchema, name: Pseudonym
) -> Record:
    try:
        targets = tuple(_number(_said(row, label)) for label in schema.labels)
    except ValueError:
        raise DataError(f"The table's line {line}: a label is no number.") from None
    if any(t < 0 or t > 1 for t in targets):
        raise DataError(f"The table's line {line}: a label is neither empty nor within 0 and 1.")
    return Record(
        uri=film.uri,
        patient=name(_said(row, "patient")) if _said(row, "patient") else film.patient,
        split="train",
        targets=targets,
        view=fields.view(_said(row, "view")) or film.view,
        sex=fields.sex(_said(row, "sex")) or film.sex,
        age=fields.age(_said(row, "age")) if _said(row, "age") else film.age,
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _said(row: Mapping[str, str], column: str) -> str:
    return (row.get(column) or "").strip()
