"""A film: the pixels of a DICOM image as they are meant to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hilum.dicom import greyscale
from hilum.dicom.decode import stored_values
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject


@dataclass(frozen=True, kw_only=True)
class Film:
    """A decoded radiograph."""

    header: FilmHeader
    pixels: npt.NDArray[np.float32] = field(repr=False)  # [H, W] in [0, 1], larger is brighter
    padding: npt.NDArray[np.bool_] | None = field(repr=False)  # [H, W], true: not image


def decode(opened: DicomObject) -> Film:
    """Decode every pixel and apply the greyscale pipeline. Safe to call from many threads; the
    decoders release the GIL.

    Raises:
        UnsupportedTransferSyntaxError, TruncatedError, InconsistentPixelsError, DecodeError,
        LimitExceededError.
    """
    header, how = opened.header, opened.greyscale
    stored = stored_values(opened)
    return Film(
        header=header,
        pixels=greyscale.presentation(stored, header, how),
        padding=greyscale.padding(stored, how),
    )
