"""Native and run-length encoded pixel data become words (PS3.5 section 8, annexes A and G)."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from hilum.dicom.header import FilmHeader
from hilum.dicom.syntaxes import little_endian
from hilum.errors import DecodeError, InconsistentPixelsError, TruncatedError

Words = npt.NDArray[np.unsignedinteger[Any]]  # [H, W], or [H, W, 3]


def native(data: bytes | memoryview, header: FilmHeader, *, vr: str) -> Words:
    """The words of Pixel Data (7FE0,0010), ``[H, W]`` or ``[H, W, 3]``.

    Args:
        data: as in the file.
        header: of the image.
        vr: the value representation of Pixel Data, OB or OW.

    Raises:
        TruncatedError: there are fewer than Rows × Columns pixels.
    """
    halved = header.photometric == "YBR_FULL_422"
    count = header.rows * header.columns * (2 if halved else header.samples)
    size = header.bits_allocated // 8
    if len(data) < count * size:
        raise TruncatedError(
            f"Pixel Data (7FE0,0010) has {len(data)} bytes; expected {count * size}."
        )
    if size == 1 and vr == "OW" and not little_endian(header.transfer_syntax):
        # 8-bit samples in 16-bit words: every pair is swapped (PS3.5 section 7.3).
        padded = bytes(data[: count + count % 2]).ljust(count + count % 2, b"\0")
        words = np.frombuffer(padded, dtype=">u2").astype("<u2").view(np.uint8)[:count]
    else:
        order = "<" if little_endian(header.transfer_syntax) else ">"
        words = np.frombuffer(data, dtype=f"{order}u{size}", count=count)
    if halved:
        return _full(words, header)
    if header.samples == 1:
        return words.reshape(header.rows, header.columns)
    return _pixels(words, header, planar=header.planar)


def run_length(frame: bytes, header: FilmHeader) -> Words:
    """The words of an RLE frame (PS3.5 annex G): one segment for each byte of each sample.

    Raises:
        InconsistentPixelsError: the frame has another number of segments.
        DecodeError: the frame is broken.
        TruncatedError: it holds too few bytes.
    """
    size = header.bits_allocated // 8
    segments = int.from_bytes(frame[:4], "little")
    if segments != size * header.samples:
        raise InconsistentPixelsError(
            f"The RLE header declares {segments} segments; {header.samples} samples of {size} "
            f"bytes have {size * header.samples}."
        )
    expected = header.rows * header.columns * header.samples * size
    try:
        decoded = imagecodecs.dicomrle_decode(frame, np.dtype(f"<u{size}"), out=expected)
    except Exception as error:  # the codecs' exceptions share no base class
        raise DecodeError(f"RLE decoding failed ({type(error).__name__}).") from None
    if len(decoded) < expected:
        raise TruncatedError(f"RLE gave {len(decoded)} bytes; expected {expected}.")
    words = np.frombuffer(decoded, dtype=f"<u{size}", count=expected // size)
    if header.samples == 1:
        return words.reshape(header.rows, header.columns)
    return _pixels(words, header, planar=True)  # segments are; Planar Configuration has no say


def _pixels(words: Words, header: FilmHeader, *, planar: bool) -> Words:
    """Planar Configuration (PS3.3 C.7.6.3.1.3)."""
    if planar:
        return np.moveaxis(words.reshape(3, header.rows, header.columns), 0, -1)
    return words.reshape(header.rows, header.columns, 3)


def _full(words: Words, header: FilmHeader) -> Words:
    """YBR_FULL_422: two Y, then the CB and CR that both share (PS3.3 C.7.6.3.1.2)."""
    pairs = words.reshape(header.rows, header.columns // 2, 4)
    pixels = np.empty((header.rows, header.columns, 3), dtype=words.dtype)
    pixels[:, 0::2, 0], pixels[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    pixels[:, 0::2, 1:] = pixels[:, 1::2, 1:] = pairs[..., 2:]
    return pixels
