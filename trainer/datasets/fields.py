"""Sex, age and view: one spelling for what the tables of data sets write differently."""

from __future__ import annotations

import math
import re
from typing import Final

OLDEST: Final = 120.0  # years; a larger age is a mistake
_AGE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", re.IGNORECASE)
_YEARS: Final = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_SEX: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}
_VIEW: Final = {"pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "ap semi erect": "AP"}
_LATERAL: Final = {"l", "ll", "rl", "lateral", "lat"}


def age(text: str) -> float:
    """Years of ``58``, ``058Y``, ``018M``, ``012W`` or ``003D`` (PS3.5 section 6.2, VR AS).

    NaN if the text is not an age, or the age is above :data:`OLDEST`: the first release of
    ChestX-ray14 has patients of 411 years.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        return math.nan
    years = float(found[1]) * _YEARS[found[2].upper()]
    return years if years <= OLDEST else math.nan


def sex(text: str) -> str:
    """``M``, ``F``, or empty for anything else."""
    return _SEX.get(text.strip().lower(), "")


def view(text: str) -> str:
    """``PA``, ``AP``, ``LATERAL``, or empty for anything else."""
    word = " ".join(text.replace("_", " ").lower().split())
    return "LATERAL" if word in _LATERAL else _VIEW.get(word, "")
