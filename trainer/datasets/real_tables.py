"""Label tables of public data sets from the wheel of torchxrayvision, which holds no pixels.

The wheel (Apache-2.0) is downloaded without its dependencies; no part of it is committed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Final, Literal

from trainer import wheels
from trainer.errors import DataError

WHEEL: Final = wheels.Wheel(
    project="torchxrayvision",
    version="1.5.7",
    sha256="95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
)

Name = Literal["Data_Entry_2017_v2020", "BBox_List_2017", "chexpert_train"]
# sha256 of the table, so that it is recognised wherever it comes from.
SHA256: Final[dict[Name, str]] = {
    "Data_Entry_2017_v2020": "dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11",
    "BBox_List_2017": "0bbfea9d4c4e9771481b3023b1bc9f0df9dea924453b12986beb29b0c4d0c95b",
    "chexpert_train": "b4bcd3d7942de23349bbe922a2389185d639cb06a24e700efb4980caae80b8e8",
}


def read(name: Name, cache: Path) -> bytes:
    """The table ``name`` as CSV, from the wheel in ``cache``.

    Raises:
        DataError: the wheel cannot be downloaded, or the table in it has another digest.
    """
    with zipfile.ZipFile(wheels.fetch(WHEEL, cache)) as archive:
        table = gzip.decompress(archive.read(f"torchxrayvision/data/{name}.csv.gz"))
    if hashlib.sha256(table).hexdigest() != SHA256[name]:
        raise DataError(f"{name}.csv is not the pinned table.")
    return table


def rows(name: Name, cache: Path) -> list[dict[str, str]]:
    """The rows of :func:`read`, by column."""
    return list(csv.DictReader(io.StringIO(read(name, cache).decode())))
