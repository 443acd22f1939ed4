"""The demonstration package and its films, which are part of the wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

PACKAGE = "hilum_demo"  # in a checkout: the folder models/


def folder(name: Literal["demo", "samples"]) -> Path:
    """The folder of the demonstration package (``demo``) or of the DICOM films (``samples``)."""
    return Path(str(files(PACKAGE))) / name
