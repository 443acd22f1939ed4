"""Decode encoded pixel data into stored values (PS3.5 section 8 and annex A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import RLELossless

from hilum.dicom import codestream, frames, plausible, tileparts
from hilum.dicom.codestream import Codestream
from hilum.dicom.greyscale import StoredValues, stored_range
from hilum.dicom.header import FilmHeader
from hilum.dicom.native import Words, native, run_length
from hilum.dicom.parse import DicomObject
from hilum.dicom.plausible import as_signed, low_bits
from hilum.dicom.syntaxes import KINDS, LOSSY, NATIVE
from hilum.errors import (
    DecodeError,
    InconsistentPixelsError,
    LimitExceededError,
    TruncatedError,
    UnsupportedPixelsError,
    UnsupportedTransferSyntaxError,
)

# OpenJPEG's arithmetic is exact up to here (measured); deeper films do not exist.
_JPEG2000_BITS: Final = 24
_MAX_TILES: Final = 4096  # it allocates some 5 KB for each


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Decoded pixels."""

    stored: StoredValues  # [H, W]; [H, W, 3] of a colour capture
    ybr: bool  # colour is Y, CB, CR; otherwise R, G, B


def stored_values(opened: DicomObject) -> StoredValues:
    """The stored values ``[H, W]`` (``[H, W, 3]`` of a colour capture) as PS3.5 section 8.1.1
    defines them: the Bits Stored below High Bit, sign-extended if Pixel Representation says so.

    Raises:
        DicomError: see :func:`decode_stored`.
    """
    return decode_stored(opened).stored


def decode_stored(opened: DicomObject) -> Decoded:
    """Stored values, and what they mean if they are colour.

    Raises:
        UnsupportedTransferSyntaxError: there is no decoder for the transfer syntax.
        UnsupportedPixelsError: there is no decoder for this kind of codestream.
        TruncatedError: there are fewer pixels than Rows × Columns, or the codestream was cut.
        InconsistentPixelsError: the codestream has another size or kind than the header says.
        DecodeError: the decoder refuses the codestream.
        LimitExceededError: the decoder ran out of memory, or there are too many tiles.
    """
    header = opened.header
    syntax, data = header.transfer_syntax, opened.pixel_data
    ybr = header.photometric in {"YBR_FULL", "YBR_FULL_422"}
    if syntax in NATIVE:
        if not data:
            raise TruncatedError("Pixel Data (7FE0,0010) is empty.")
        return Decoded(stored=_extract(native(data, header, vr=opened.pixel_vr), header), ybr=ybr)
    if syntax == RLELossless:
        return Decoded(stored=_extract(run_length(_frame(opened), header), header), ybr=ybr)
    if syntax not in KINDS:
        name = UID_dictionary[syntax][0] if syntax in UID_dictionary else "not a standard one"
        raise UnsupportedTransferSyntaxError(
            f"There is no decoder for Transfer Syntax UID (0002,0010), {name}."
        )
    frame, declared = read_frame(opened)
    # Lossy JPEG, and JPEG 2000 with a component transform, are decoded to RGB.
    turned = (KINDS[syntax] == "JPEG" and not declared.lossless) or (
        KINDS[syntax] == "JPEG 2000" and bool(declared.colour_transform)
    )
    words = _compressed(frame, declared, header)
    return Decoded(stored=_extract(words, header, declared), ybr=ybr and not turned)


def read_frame(opened: DicomObject) -> tuple[bytes, Codestream]:
    """The codestream of compressed pixel data, and what it declares, which fits the header.

    Raises:
        DicomError: see :func:`decode_stored`.
    """
    frame, kind = _frame(opened), KINDS[opened.header.transfer_syntax]
    declared = codestream.read(frame)
    _check(declared, opened.header, kind)
    if kind == "JPEG":
        codestream.check_scans(frame)
    elif kind == "JPEG 2000":
        return tileparts.mend(frame, declared)
    return frame, declared


def check_shape(pixels: npt.NDArray[Any], header: FilmHeader, kinds: str) -> None:
    """Raise :class:`InconsistentPixelsError` unless ``pixels`` have one of the ``kinds`` of dtype
    and the header's shape, ``[H, W]`` or ``[H, W, 3]``."""
    shape = (header.rows, header.columns, 3)[: 2 if header.samples == 1 else 3]
    if pixels.shape != shape or pixels.dtype.kind not in kinds:
        raise InconsistentPixelsError(
            f"The decoder gave {pixels.dtype.name} of shape {pixels.shape}; expected {shape}."
        )


def _frame(opened: DicomObject) -> bytes:
    """The first frame of encapsulated pixel data (PS3.5 section A.4)."""
    if not opened.pixel_data:
        raise TruncatedError("Pixel Data (7FE0,0010) is empty.")
    frame = frames.first(
        opened.pixel_data, frames=opened.header.frames, extended=opened.extended_offsets
    )
    if not frame:
        raise TruncatedError("The encapsulated pixel data has no bytes.")
    return frame


def _check(declared: Codestream, header: FilmHeader, kind: str) -> None:
    """Check that header and codestream describe the same image, before a decoder allocates for
    it."""
    if declared.kind != kind:
        raise InconsistentPixelsError(
            f"The codestream is {declared.kind}; Transfer Syntax UID (0002,0010) says {kind}."
        )
    if (declared.rows, declared.columns) != (header.rows, header.columns):
        raise InconsistentPixelsError(
            f"The codestream is {declared.rows} × {declared.columns}; the header says "
            f"{header.rows} × {header.columns}."
        )
    if declared.components != header.samples or declared.bits > header.bits_allocated:
        raise InconsistentPixelsError(
            f"The codestream has {declared.components} components of {declared.bits} bits; the "
            f"header says {header.samples} of {header.bits_stored} in {header.bits_allocated}."
        )
    if kind == "JPEG 2000":
        if declared.bits > _JPEG2000_BITS:
            raise UnsupportedPixelsError(
                f"SIZ (FF51) declares {declared.bits} bits; JPEG 2000 is decoded up to "
                f"{_JPEG2000_BITS}."
            )
        if declared.tiles > _MAX_TILES:
            raise LimitExceededError(
                f"SIZ (FF51) declares {declared.tiles} tiles; at most {_MAX_TILES} are decoded.",
                next_step="Have the sender write larger tiles, or one.",
            )
        if set(declared.subsampling) != {(1, 1)}:
            raise UnsupportedPixelsError("SIZ (FF51) declares subsampled components.")


def _compressed(frame: bytes, declared: Codestream, header: FilmHeader) -> Words:
    pixels: npt.NDArray[Any]
    try:
        if declared.kind == "JPEG 2000":
            pixels = imagecodecs.jpeg2k_decode(frame)
        elif declared.kind == "JPEG-LS":
            pixels = _jpeg_ls(frame)
        else:
            # Lossless JPEG is never transformed. libjpeg takes a lossy one without the Adobe marker
            # for YCbCr; if the header says RGB, it is not (as DCMTK, GDCM and pydicom read it).
            unmarked = header.photometric == "RGB" and declared.colour_transform is None
            as_is = header.samples == 3 and (declared.lossless or unmarked)
            space = "RGB" if as_is else None
            pixels = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    except MemoryError:
        raise LimitExceededError("The decoder needs more memory than there is.") from None
    except Exception as error:  # the codecs' exceptions share no base class
        raise DecodeError(
            f"The decoder failed ({type(error).__name__}) {codestream.part(frame)}."
        ) from None
    check_shape(pixels, header, "iu")
    # The header says whether values have a sign; here only the bits count.
    return pixels.view(f"u{pixels.dtype.itemsize}")


def _jpeg_ls(frame: bytes) -> npt.NDArray[Any]:
    """Add a missing end marker: CharLS detects a scan that was cut short, but without an end marker
    that takes it a minute."""
    pixels: npt.NDArray[Any]
    scan = frame.rstrip(b"\0")
    if scan.endswith(codestream.END):
        pixels = imagecodecs.jpegls_decode(frame)
        return pixels
    try:
        pixels = imagecodecs.jpegls_decode(scan + codestream.END)
    except imagecodecs.JpeglsError:  # the zeros may have been data
        pixels = imagecodecs.jpegls_decode(frame + codestream.END)
    return pixels


def _extract(words: Words, header: FilmHeader, declared: Codestream | None = None) -> StoredValues:
    """The Bits Stored bits below High Bit. Bits above them (retired overlays) are dropped.

    Raises:
        InconsistentPixelsError: the words show that the values have other bits than declared.
    """
    native_words = words.astype(f"u{words.dtype.itemsize}", copy=False)
    bits, lowest = header.bits_stored, header.high_bit + 1 - header.bits_stored
    overshoots, signed = False, header.signed
    if declared is not None:
        if declared.bits <= header.bits_stored:
            lowest = 0  # the codestream has the values, not the words around them
        elif header.transfer_syntax in LOSSY and not lowest:
            # Values may overshoot Bits Stored; without those bits white would turn black.
            bits, overshoots = declared.bits, True
        if declared.signed[0] != header.signed:
            # The encoder took the bits of a signed value for an unsigned one, or the other way
            # round: they keep their meaning (as pydicom reads it). JPEG and JPEG-LS always do.
            bits = min(bits, declared.bits)
    if lowest:
        plausible.check_below(native_words, lowest)
        native_words = native_words >> lowest
    if declared is None or declared.signed[0] != signed or declared.bits > bits:
        top, extended = (declared.bits, not declared.signed[0]) if declared else (None, True)
        plausible.check_bits(native_words, bits, signed=signed, top=top, extended=extended)
    values: StoredValues = as_signed(native_words, bits) if signed else low_bits(native_words, bits)
    if overshoots:
        low, high = stored_range(header)
        plausible.check_overshoot(values, low, high)
        values = np.clip(values, low, high)
    return values
