"""What the header says about a film besides its pixels: where, when and with what it was taken, how
old the patient was, and, only on request, who the patient is.

Any of it may name a patient, because senders write what they like. It goes into SQL and nowhere
else; a date of birth does not leave this module. A fact that cannot be read is left out. It is no
reason to refuse a film.
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time
from typing import Final

from pydicom.dataset import Dataset

_LONG_STRING: Final = 64  # LO and CS and SH: PS3.5 section 6.2
_PERSON_NAME: Final = 3 * 64 + 2  # three component groups
_DATE: Final = re.compile(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})")
_TIME: Final = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(\.\d*)?")
# The date of the film, or else the nearest one that includes it.
_TAKEN: Final = ("Acquisition", "Content", "Series", "Study")
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_DAYS: Final = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_BIRTH: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")  # dots: ACR-NEMA, PS3.5 section 6.2
_OLDEST: Final = 150.0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who the patient is."""

    accession_number: str | None = field(repr=False)  # (0008,0050)
    patient_id: str | None = field(repr=False)  # (0010,0020)
    patient_name: str | None = field(repr=False)  # (0010,0010), with all component groups


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Where, when and with what the film was taken."""

    # Of the device's clock and in its local time; ISO 8601, because a header travels as JSON.
    acquisition_date: str | None = field(default=None, repr=False)  # 2024-05-01
    acquisition_time: str | None = field(default=None, repr=False)  # 14:30:00
    institution: str | None = field(default=None, repr=False)  # (0008,0080)
    manufacturer: str | None = field(default=None, repr=False)  # (0008,0070)
    manufacturer_model: str | None = field(default=None, repr=False)  # (0008,1090)
    sex: str | None = field(default=None, repr=False)  # (0010,0040): M, F or O
    identity: Identity | None = field(default=None, repr=False)  # None: not requested


def read(dataset: Dataset, *, identity: bool) -> Facts:
    """The facts of ``dataset``. No value in it leads to an error."""
    taken_on, taken_at = _taken(dataset)
    sex = _text(dataset, "PatientSex", 16)
    return Facts(
        acquisition_date=taken_on,
        acquisition_time=taken_at,
        institution=_text(dataset, "InstitutionName"),
        manufacturer=_text(dataset, "Manufacturer"),
        manufacturer_model=_text(dataset, "ManufacturerModelName"),
        sex=sex.upper() if sex and sex.upper() in {"M", "F", "O"} else None,
        identity=Identity(
            accession_number=_text(dataset, "AccessionNumber"),
            patient_id=_text(dataset, "PatientID"),
            patient_name=_text(dataset, "PatientName", _PERSON_NAME),
        )
        if identity
        else None,
    )


def age_years(dataset: Dataset) -> float | None:
    """The patient's age when the film was taken; ``None`` if the header does not give it.

    Patient's Age (0010,1010) (PS3.5 section 6.2, AS), or else the time from Patient's Birth Date
    (0010,0030) to the date of the film. Impossible ages are left out.
    """
    found: float | None = None
    if said := _AGE.fullmatch(_plain(dataset, "PatientAge").upper()):
        found = int(said[1]) * _DAYS[said[2]] / 365.25
    elif (born := _date(_plain(dataset, "PatientBirthDate"), _BIRTH)) is not None:
        dates = (_date(_plain(dataset, f"{of}Date"), _BIRTH) for of in _TAKEN)
        if (taken := next(filter(None, dates), None)) is not None:
            # Whole years as people count them, and an infant's age in days.
            before = (taken.month, taken.day) < (born.month, born.day)
            whole = taken.year - born.year - before
            found = float(whole) if whole >= 1 else (taken - born).days / 365.25
    return found if found is not None and 0 <= found <= _OLDEST else None


def clean(text: str | None, limit: int) -> str | None:
    """``text`` as SQL can hold it: no control characters or lone surrogates, single spaces, at
    most ``limit`` characters; ``None`` if nothing is left."""
    if text is None:
        return None
    printable = "".join(" " if unicodedata.category(one)[0] == "C" else one for one in text)
    return " ".join(printable.split())[:limit].rstrip() or None


def _taken(dataset: Dataset) -> tuple[str | None, str | None]:
    """The first valid date and the time that belongs to it."""
    found = [(_text(dataset, f"{of}Date"), _text(dataset, f"{of}Time")) for of in _TAKEN]
    whole = _text(dataset, "AcquisitionDateTime") or ""
    found.insert(1, (whole[:8], re.split("[+-]", whole[8:])[0]))  # without its offset from UTC
    for day, at in found:
        if valid := _date(day, _DATE):
            return valid.isoformat(), _time(at)
    return None, None


def _date(text: str | None, pattern: re.Pattern[str]) -> date | None:
    parts = pattern.fullmatch(text or "")
    with suppress(ValueError):
        return date(*map(int, parts.groups())) if parts else None
    return None


def _time(text: str | None) -> str | None:
    """PS3.5 section 6.2, TM: missing parts at the end are zero; fractions are dropped."""
    parts = _TIME.fullmatch(text or "")
    if parts is None:
        return None
    hour, minute, second = (int(part or 0) for part in parts.groups()[:3])
    with suppress(ValueError):
        return time(hour, minute, second).isoformat()
    return None


def _plain(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _text(dataset: Dataset, keyword: str, limit: int = _LONG_STRING) -> str | None:
    """The element as text, the first of several values; ``None`` if it cannot be read."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
            value = value[0] if len(value) else None
        return clean(None if value is None else str(value), limit)
    except MemoryError:
        raise
    except Exception:  # pydicom raises whatever a broken element provokes
        return None
