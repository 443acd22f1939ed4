"""A film: the pixels of a DICOM image as they are meant to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hilum.dicom import colour, greyscale, picture, reduced
from hilum.dicom.decode import decode_stored
from hilum.dicom.elements import Source
from hilum.dicom.greyscale import TABLE_BITS, Shown
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject, open_object
from hilum.dicom.reduced import Box, Samples
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RowFilm:
    """A decoded radiograph, whole or on a coarser grid, whose pixels may be computed later."""

    header: FilmHeader
    pixels: Float32Array | Shown = field(repr=False)  # [h, w] in [0, 1], larger is brighter
    padding: npt.NDArray[np.bool_] | None = field(repr=False)  # [h, w], true: not image
    box: Box | Samples  # (0, 0, w, h) if whole, else how ``pixels`` stand for those of the film


@dataclass(frozen=True, kw_only=True)
class Film(RowFilm):
    """A decoded radiograph with its pixels."""

    pixels: Float32Array = field(repr=False)


def open_film(data: Source, limits: Limits, *, identity: bool = False) -> DicomObject:
    """Open a DICOM object, or a PNG or JPEG file, and check all that can be checked without
    decoding.

    Args:
        data: content of the file.
        limits: limits on one object.
        identity: read who the patient is, too (:class:`hilum.dicom.facts.Identity`).

    Raises:
        DicomError: it is none of these, or broken, or too large; a subclass says how.
    """
    kind = picture.kind(bytes(data[:132]))
    if kind is None:
        return open_object(data, limits, identity=identity)
    return picture.open_picture(bytes(data), kind, limits)


def decode(opened: DicomObject, *, side: int | None = None) -> Film:
    """Decode a film and apply the greyscale pipeline. Many threads may call it at once; the
    decoders release the GIL.

    Args:
        opened: the film.
        side: ``None`` decodes every pixel, exactly. A number allows leaving out what is not needed
            for ``side`` samples along the long side (:mod:`hilum.dicom.reduced`). Colour captures,
            pictures, and films deeper than 16 bits are decoded whole all the same.

    Raises:
        UnsupportedTransferSyntaxError, UnsupportedPixelsError, ColouredPixelsError,
        TruncatedError, InconsistentPixelsError, DecodeError, LimitExceededError,
        WindowMissesDataError.
    """
    film = decode_rows(opened, side=side)
    whole = film.pixels.whole() if isinstance(film.pixels, Shown) else film.pixels
    return Film(header=film.header, pixels=whole, padding=film.padding, box=film.box)


def decode_rows(opened: DicomObject, *, side: int | None = None) -> RowFilm:
    """Like :func:`decode`, but grey pixels are computed when their rows are requested."""
    header, how = opened.header, opened.greyscale
    grey = header.picture is None and header.samples == 1 and opened.palette is None
    if side is not None and grey and header.bits_stored <= TABLE_BITS:
        less = reduced.stored_values(opened, side=side)
        shown = greyscale.present(less.values, header, how)
        greyscale.check_seen(shown, header, how, outside=less.padding)
        return RowFilm(header=header, pixels=shown, padding=less.padding, box=less.box)
    found = picture.decode(opened) if header.picture else decode_stored(opened)
    pixels: Float32Array | Shown
    if opened.palette is not None:
        rgb = opened.palette.apply(found.stored)
        pixels = colour.grey(rgb, ybr=False, bits=opened.palette.bits)
    elif header.samples == 3:
        pixels = colour.grey(found.stored, ybr=found.ybr, bits=header.bits_stored)
    else:
        pixels = greyscale.present(found.stored, header, how)
        greyscale.check_seen(pixels, header, how)
    return RowFilm(
        header=header,
        pixels=pixels,
        padding=greyscale.padding(found.stored, how),
        box=(0.0, 0.0, float(header.columns), float(header.rows)),
    )
