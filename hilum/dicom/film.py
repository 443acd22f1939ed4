"""A film: the pixels of a DICOM image as they are meant to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hilum.dicom import colour, greyscale, picture
from hilum.dicom.decode import decoded
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject, open_object
from hilum.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Film:
    """A decoded radiograph."""

    header: FilmHeader
    pixels: npt.NDArray[np.float32] = field(repr=False)  # [H, W] in [0, 1], larger is brighter
    padding: npt.NDArray[np.bool_] | None = field(repr=False)  # [H, W], true: not image


def open_film(data: bytes, limits: Limits) -> DicomObject:
    """A DICOM object, or a PNG or JPEG file, checked as far as it can be without decoding.

    Raises:
        DicomError: it is none of these, or broken, or too large; a subclass says how.
    """
    kind = picture.kind(data)
    return open_object(data, limits) if kind is None else picture.open_picture(data, kind, limits)


def decode(opened: DicomObject) -> Film:
    """Decode every pixel and apply the greyscale pipeline. Safe to call from many threads; the
    decoders release the GIL.

    Raises:
        UnsupportedTransferSyntaxError, UnsupportedPixelsError, ColouredPixelsError,
        TruncatedError, InconsistentPixelsError, DecodeError, LimitExceededError.
    """
    header, how = opened.header, opened.greyscale
    found = picture.decoded(opened) if header.picture else decoded(opened)
    if opened.palette is not None:
        shown = colour.grey(opened.palette.apply(found.stored), ybr=False, bits=opened.palette.bits)
    elif header.samples == 3:
        shown = colour.grey(found.stored, ybr=found.ybr, bits=header.bits_stored)
    else:
        shown = greyscale.presentation(found.stored, header, how)
    return Film(header=header, pixels=shown, padding=greyscale.padding(found.stored, how))
