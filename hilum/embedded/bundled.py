"""What the wheel brings along: the demonstration package and its films."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

PACKAGE = "hilum_demo"  # the folder models/ of a checkout


def folder(name: Literal["demo", "samples"]) -> Path:
    """The folder of the model package ``demo``, or of the DICOM films ``samples``."""
    return Path(str(files(PACKAGE))) / name
