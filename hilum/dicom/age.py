"""How old the patient was, from what the header gives; dates of birth go no further than here."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from pydicom.dataset import Dataset

_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_DAYS: Final = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")  # with dots: ACR-NEMA, PS3.5 section 6.2
_TAKEN: Final = ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")
_OLDEST: Final = 150.0


def years(dataset: Dataset) -> float | None:
    """The patient's age when the film was taken; ``None`` if the header does not give it.

    Patient's Age (0010,1010) (PS3.5 section 6.2, AS), else the time from Patient's Birth Date
    (0010,0030) to the film's date. What makes no sense is not given.
    """
    said = _AGE.fullmatch(_text(dataset, "PatientAge").upper())
    if said:
        found: float | None = int(said[1]) * _DAYS[said[2]] / 365.25
    else:
        born = _date(_text(dataset, "PatientBirthDate"))
        taken = next((day for name in _TAKEN if (day := _date(_text(dataset, name)))), None)
        found = None if born is None or taken is None else _between(born, taken)
    return found if found is not None and 0 <= found <= _OLDEST else None


def _between(born: date, taken: date) -> float:
    """Whole years as people count them, and the rest in days."""
    whole = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    if whole >= 1:
        return float(whole)
    return (taken - born).days / 365.25


def _date(text: str) -> date | None:
    parts = _DATE.fullmatch(text)
    try:
        return date(*(int(part) for part in parts.groups())) if parts else None
    except ValueError:
        return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")
