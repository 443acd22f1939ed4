"""Encoded pixel data becomes stored values (PS3.5 section 8 and annex A)."""

from __future__ import annotations

from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom._uid_dict import UID_dictionary
from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from hilum.dicom import codestream
from hilum.dicom.codestream import Codestream
from hilum.dicom.greyscale import StoredValues
from hilum.dicom.header import FilmHeader
from hilum.dicom.parse import DicomObject
from hilum.errors import (
    DecodeError,
    HilumError,
    InconsistentPixelsError,
    LimitExceededError,
    TruncatedError,
    UnsupportedTransferSyntaxError,
)

_NATIVE: Final[set[str]] = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
_DECODERS: Final[dict[str, Any]] = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    JPEGLossless: imagecodecs.jpeg8_decode,
    JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
    JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    JPEG2000: imagecodecs.jpeg2k_decode,
    HTJ2KLossless: imagecodecs.htj2k_decode,
    HTJ2KLosslessRPCL: imagecodecs.htj2k_decode,
    HTJ2K: imagecodecs.htj2k_decode,
}


def stored_values(opened: DicomObject) -> StoredValues:
    """The stored values ``[H, W]`` as PS3.5 section 8.1.1 defines them: the Bits Stored below
    High Bit, sign-extended if Pixel Representation says so.

    Raises:
        UnsupportedTransferSyntaxError: there is no decoder for it.
        TruncatedError: there are fewer pixels than Rows × Columns.
        InconsistentPixelsError: the codestream is of another size or kind than the header says.
        DecodeError: the decoder refuses the codestream.
    """
    header = opened.header
    syntax, data = header.transfer_syntax, opened.pixel_data
    if not data:
        raise TruncatedError("Pixel Data (7FE0,0010) is empty.")
    if syntax in _NATIVE:
        words = _native(data, opened)
    elif syntax == RLELossless:
        words = _rle(_frame(data), header)
    elif syntax in _DECODERS:
        words = _compressed(opened, _DECODERS[syntax])
    else:
        name = (
            UID_dictionary[syntax][0] if syntax in UID_dictionary else "that is not a standard one"
        )
        raise UnsupportedTransferSyntaxError(f"There is no decoder for transfer syntax {name}.")
    return _extract(words, header)


def _native(data: bytes, opened: DicomObject) -> npt.NDArray[np.uint8 | np.uint16]:
    header = opened.header
    count = header.rows * header.columns
    size = header.bits_allocated // 8
    if len(data) < count * size:
        raise TruncatedError(f"Pixel Data has {len(data)} bytes; expected {count * size}.")
    order = "<" if opened.little_endian else ">"
    if size == 1 and not opened.little_endian and opened.pixel_vr == "OW":
        # 8-bit samples in 16-bit words: every pair is swapped (PS3.5 section 7.3).
        words = np.frombuffer(data[: count + count % 2], dtype=">u2").astype("<u2").view(np.uint8)
    else:
        words = np.frombuffer(data, dtype=f"{order}u{size}", count=count)
    return words[:count].reshape(header.rows, header.columns)


def _frame(data: bytes) -> bytes:
    """The only frame of encapsulated pixel data (PS3.5 section A.4)."""
    if not data:
        raise TruncatedError("Pixel Data (7FE0,0010) is empty.")
    try:
        frame = get_frame(data, 0, number_of_frames=1)
    except Exception as error:  # pydicom raises whatever a broken encapsulation provokes
        raise DecodeError(
            f"The encapsulated pixel data cannot be taken apart ({type(error).__name__})."
        ) from None
    if not frame:
        raise TruncatedError("The encapsulated pixel data has no bytes.")
    return frame


def _rle(frame: bytes, header: FilmHeader) -> npt.NDArray[np.uint8 | np.uint16]:
    """PS3.5 annex G."""
    size = header.bits_allocated // 8
    expected = header.rows * header.columns * size
    try:
        decoded = imagecodecs.dicomrle_decode(frame, np.dtype(f"<u{size}"), out=expected)
    except Exception as error:  # the codecs' exceptions share no base class
        raise DecodeError(f"RLE decoding failed ({type(error).__name__}).") from None
    if len(decoded) < expected:
        raise TruncatedError(f"RLE gave {len(decoded)} bytes; expected {expected}.")
    words = np.frombuffer(decoded, dtype=f"<u{size}", count=header.rows * header.columns)
    return words.reshape(header.rows, header.columns)


def checked_frame(opened: DicomObject) -> tuple[bytes, Codestream]:
    """The frame of compressed pixel data, and what it declares, which agrees with the header.

    Raises:
        TruncatedError, DecodeError, InconsistentPixelsError: see :func:`stored_values`.
    """
    header = opened.header
    frame = _frame(opened.pixel_data)
    declared = codestream.read(frame)
    if (declared.rows, declared.columns) != (header.rows, header.columns):
        raise InconsistentPixelsError(
            f"The codestream is {declared.rows} × {declared.columns}; the header says "
            f"{header.rows} × {header.columns}."
        )
    if declared.components != 1 or declared.bits > header.bits_allocated:
        raise InconsistentPixelsError(
            f"The codestream has {declared.components} components of {declared.bits} bits; the "
            f"header says 1 of {header.bits_stored} in {header.bits_allocated}."
        )
    return frame, declared


def _compressed(opened: DicomObject, decoder: Any) -> npt.NDArray[np.uint8 | np.uint16]:
    header = opened.header
    frame, _ = checked_frame(opened)
    try:
        decoded = decoder(frame)
    except MemoryError:
        raise LimitExceededError("The decoder needs more memory than there is.") from None
    except HilumError:
        raise
    except Exception as error:  # the codecs' exceptions share no base class
        raise DecodeError(f"The decoder failed ({type(error).__name__}).") from None
    if decoded.shape != (header.rows, header.columns) or decoded.dtype.kind not in "iu":
        raise InconsistentPixelsError(
            f"The decoder gave {decoded.dtype.name} of shape {decoded.shape}."
        )
    # Signed or not is the header's to say; here only the bits count.
    words: npt.NDArray[np.uint8 | np.uint16] = decoded.view(f"u{decoded.dtype.itemsize}")
    return words


def _extract(words: npt.NDArray[np.uint8 | np.uint16], header: FilmHeader) -> StoredValues:
    """Bits Stored bits below High Bit; what is above (old overlays) is dropped."""
    native = words.astype(f"u{words.dtype.itemsize}", copy=False)
    lowest = header.high_bit + 1 - header.bits_stored
    width = 8 * native.dtype.itemsize
    if lowest and width > header.bits_stored:
        native = native >> lowest
    if header.signed:
        shift = width - min(header.bits_stored, width)
        # Up to the top and back: the arithmetic shift carries the sign.
        moved = (native << shift).view(f"i{native.dtype.itemsize}")
        signed: StoredValues = moved >> shift
        return signed
    limit = 1 << header.bits_stored
    if header.bits_stored < width and native.max() >= limit:  # rarely, and the copy is a film
        native = native & native.dtype.type(limit - 1)
    return native
