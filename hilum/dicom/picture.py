"""PNG and JPEG files beside DICOM: the formats of research data sets and teaching files.

Such a file does not say what it shows, so its header has neither UIDs nor a modality. A package's
policy decides whether the model may score it. Its pixels are read as a screen shows them: larger is
brighter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from hilum.dicom import codestream, png
from hilum.dicom.decode import Decoded, check_shape
from hilum.dicom.greyscale import PLAIN
from hilum.dicom.header import COLOUR_CAPTURE, FilmHeader, check_size
from hilum.dicom.parse import DicomObject
from hilum.errors import (
    DecodeError,
    LimitExceededError,
    ObjectTooLargeError,
    UnsupportedPixelsError,
)
from hilum.settings import Limits

Kind = Literal["png", "jpeg"]
Pixels = npt.NDArray[Any]

_JPEG: Final = b"\xff\xd8\xff"
_ORIENTATION: Final = 0x0112
# EXIF orientation (Exif 2.3, 4.6.4): how to turn the stored pixels upright.
_UPRIGHT: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(np.swapaxes(pixels, 0, 1), 2),
    8: lambda pixels: np.rot90(pixels, 1),
}


def kind(data: bytes) -> Kind | None:
    """Tell by its first bytes whether ``data`` is a PNG or JPEG file. ``None`` if it is neither, or
    a DICOM file whose preamble looks like one."""
    if data[128:132] == b"DICM":
        return None
    return "png" if data.startswith(png.SIGNATURE) else "jpeg" if data.startswith(_JPEG) else None


def open_picture(data: bytes, kind: Kind, limits: Limits) -> DicomObject:
    """Check the header of a PNG or JPEG file, before any pixel is decoded.

    Raises:
        ObjectTooLargeError, LimitExceededError: it is above ``limits``.
        DecodeError: its header is broken.
        InconsistentPixelsError: it has no pixels.
        UnsupportedPixelsError: it is neither grey nor RGB.
    """
    if len(data) > limits.max_object_bytes:
        raise ObjectTooLargeError(
            f"The object has {len(data)} bytes; max_object_bytes is {limits.max_object_bytes}."
        )
    rows, columns, bits, colour = png.header(data) if kind == "png" else _jpeg(data)
    check_size(rows, columns, limits)
    if _orientation(data, kind) >= 5:
        rows, columns = columns, rows
    header = FilmHeader(
        rows=rows,
        columns=columns,
        bits_allocated=8 if bits <= 8 else 16,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=False,
        photometric="RGB" if colour else "MONOCHROME2",
        samples=3 if colour else 1,
        picture=kind,
        flags=(COLOUR_CAPTURE,) if colour else (),
    )
    return DicomObject(header=header, greyscale=PLAIN, pixel_data=data, pixel_vr="OB")


def decode(opened: DicomObject) -> Decoded:
    """The pixels of a PNG or JPEG file, upright.

    Raises:
        DecodeError: the file is broken.
        TruncatedError: it ends too early.
        LimitExceededError: the decoder ran out of memory.
        InconsistentPixelsError: the decoder gives something else than the header says.
        UnsupportedPixelsError: parts of the image are transparent.
    """
    header, data = opened.header, bytes(opened.pixel_data)
    try:
        pixels = png.decode(data) if header.picture == "png" else _decode_jpeg(data)
    except MemoryError:
        raise LimitExceededError("The decoder needs more memory than there is.") from None
    if turn := _UPRIGHT.get(_orientation(data, header.picture)):
        pixels = turn(pixels)
    check_shape(pixels, header, "u")
    return Decoded(stored=pixels, ybr=False)


def _jpeg(data: bytes) -> tuple[int, int, int, bool]:
    """Rows, columns, bits and colour of the frame header."""
    declared = codestream.read(data)
    if declared.components not in {1, 3} or not 2 <= declared.bits <= 16:
        raise UnsupportedPixelsError(
            f"The JPEG has {declared.components} components of {declared.bits} bits; "
            "expected 1 or 3 of at most 16."
        )
    return declared.rows, declared.columns, declared.bits, declared.components == 3


def _decode_jpeg(data: bytes) -> Pixels:
    codestream.check_scans(data)
    try:
        pixels: Pixels = imagecodecs.jpeg8_decode(data)
    except MemoryError:
        raise
    except Exception as error:  # the codecs' exceptions share no base class
        raise DecodeError(f"The JPEG decoder failed ({type(error).__name__}).") from None
    return pixels


def _orientation(data: bytes, kind: str | None) -> int:
    """EXIF orientation, 1 if there is none that can be read."""
    block = png.exif(data) if kind == "png" else codestream.exif(data)
    if not block:
        return 1
    tags = Image.Exif()
    try:
        tags.load(block)
        found = tags.get(_ORIENTATION, 1)
    except Exception:  # Pillow raises whatever a broken block provokes; it is not the image
        return 1
    return found if found in _UPRIGHT else 1
