"""A film: the pixels of a DICOM image as they are meant to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hilum.dicom import greyscale, reduced
from hilum.dicom.decode import stored_values
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject


@dataclass(frozen=True, kw_only=True)
class Film:
    """A decoded radiograph, whole or on a coarser grid."""

    header: FilmHeader
    pixels: npt.NDArray[np.float32] = field(repr=False)  # [h, w] in [0, 1], larger is brighter
    padding: npt.NDArray[np.bool_] | None = field(repr=False)  # [h, w], true: not image
    # x0, y0, x1, y1: where the whole film lies, in samples of ``pixels``; (0, 0, w, h) if whole.
    box: tuple[float, float, float, float]


def decode(opened: DicomObject, *, side: int | None = None) -> Film:
    """Decode and apply the greyscale pipeline. Safe to call from many threads; the decoders
    release the GIL.

    Args:
        opened: the object.
        side: ``None``: every pixel, exactly. Else what is not needed for ``side`` samples along the
            long side may be left out (:mod:`hilum.dicom.reduced`); a film with declared padding is
            decoded whole all the same, because a padding value is lost in a mean.

    Raises:
        UnsupportedTransferSyntaxError, TruncatedError, InconsistentPixelsError, DecodeError,
        LimitExceededError.
    """
    header, how = opened.header, opened.greyscale
    if side is not None and how.padding is None:
        found = reduced.stored_values(opened, side=side)
        return Film(
            header=header,
            pixels=greyscale.presentation(found.values, header, how),
            padding=None,
            box=found.box,
        )
    stored = stored_values(opened)
    return Film(
        header=header,
        pixels=greyscale.presentation(stored, header, how),
        padding=greyscale.padding(stored, how),
        box=(0.0, 0.0, float(header.columns), float(header.rows)),
    )
