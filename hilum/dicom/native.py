"""Decode native and run-length encoded pixel data into words (PS3.5 section 8, annexes A, G)."""

from __future__ import annotations

import struct
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from hilum.dicom.header import FilmHeader
from hilum.dicom.syntaxes import little_endian
from hilum.errors import DecodeError, InconsistentPixelsError, TruncatedError

_RLE_HEADER: Final = 64  # bytes
_NO_RUN, _LONGEST_RUN = 128, 128  # PS3.5 section G.3.2
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0"
_MOST_ITEMS: Final = 2**16
# The samples of a grey pixel differ by less than this share of their range. In the wrong layout
# they differ this many times as much. One pixel in so many is checked.
_ALIKE, _FURTHER, _STEP = 1 / 64, 4.0, 7

Words = npt.NDArray[np.unsignedinteger[Any]]  # [H, W], or [H, W, 3]


def native(data: bytes | memoryview, header: FilmHeader, *, vr: str) -> Words:
    """The words of Pixel Data (7FE0,0010), whose ``vr`` is OB or OW: ``[H, W]`` or ``[H, W, 3]``.

    Raises:
        TruncatedError: there are fewer bytes than the header declares.
        InconsistentPixelsError: there are more pixels, or they are encapsulated.
    """
    halved = header.photometric == "YBR_FULL_422"
    count = header.rows * header.columns * (2 if halved else header.samples)
    size = header.bits_allocated // 8
    expected = count * size * header.frames
    if _are_items(data):
        raise InconsistentPixelsError(
            "Pixel Data (7FE0,0010) holds items; Transfer Syntax UID (0002,0010) says that it is "
            "native."
        )
    if len(data) < expected:
        raise TruncatedError(
            f"Pixel Data (7FE0,0010) has {len(data)} bytes; expected {expected}.",
            next_step="Have the sender write the object again; it declares more than it holds.",
        )
    row, column = count // header.rows * size, count // header.columns * size
    if _contradicts(data[expected:], row, column):
        raise InconsistentPixelsError(
            f"Pixel Data (7FE0,0010) has {len(data)} bytes; the header declares {expected}."
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
    if header.photometric == "RGB":
        _check_planes(words, header)
    return _pixels(words, header, planar=header.planar)


def run_length(frame: bytes, header: FilmHeader) -> Words:
    """The words of an RLE frame (PS3.5 annex G), which has a segment for each byte of each sample.

    Raises:
        InconsistentPixelsError: the frame has another number of segments, or more than Rows ×
            Columns bytes in them.
        DecodeError: the frame is broken.
        TruncatedError: a segment holds too few bytes.
    """
    size, count = header.bits_allocated // 8, header.rows * header.columns
    segments = int.from_bytes(frame[:4], "little")
    if segments != size * header.samples:
        raise InconsistentPixelsError(
            f"The RLE header declares {segments} segments; {header.samples} samples of {size} "
            f"bytes have {size * header.samples}."
        )
    if len(frame) < _RLE_HEADER:
        raise TruncatedError("The RLE data ends within its header.")
    starts = struct.unpack_from(f"<{segments}I", frame, 4)
    ends = (*starts[1:], len(frame))
    if starts[0] < _RLE_HEADER or any(one > other for one, other in zip(starts, ends, strict=True)):
        raise DecodeError("The offsets in the RLE header do not ascend within the RLE data.")
    words = np.empty((header.samples, count), dtype=f"<u{size}")
    each = words.view(np.uint8).reshape(header.samples, count, size)
    for n, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sample, byte = divmod(n, size)  # the most significant byte is the first
        each[sample, :, size - 1 - byte] = _unpacked(frame[start:end], header)
    if header.samples == 1:
        return words.reshape(header.rows, header.columns)
    # Segments are planar, whatever Planar Configuration says.
    return _pixels(words, header, planar=True)


def _unpacked(segment: bytes, header: FilmHeader) -> npt.NDArray[np.uint8]:
    """Unpack a segment to a byte of each pixel, and cut off what some encoders leave behind it."""
    count = header.rows * header.columns
    try:
        found = imagecodecs.packbits_decode(segment, out=count)
    except Exception:  # its exceptions share no base class; the segment may just be too long
        at, surplus = _past(segment, count)
        if _contradicts(surplus, header.columns, header.rows):
            raise InconsistentPixelsError(
                f"An RLE segment has more than the {count} bytes that the header declares."
            ) from None
        try:  # the last run may go beyond, by less than its 128
            found = imagecodecs.packbits_decode(segment[:at], out=count + _LONGEST_RUN)
        except Exception as error:
            raise DecodeError(f"RLE decoding failed ({type(error).__name__}).") from None
    if len(found) < count:
        raise TruncatedError(f"An RLE segment gave {len(found)} bytes; expected {count}.")
    return np.frombuffer(found, dtype=np.uint8, count=count)


def _past(segment: bytes, count: int) -> tuple[int, bytes]:
    """Where the run with the ``count``-th byte ends, and the decoded bytes behind the ``count``-th,
    as many as matter."""
    place = made = 0
    surplus = bytearray()
    while place < len(segment) and len(surplus) <= count:
        code = segment[place]
        if code == _NO_RUN:
            place += 1
            continue
        length, taken = (257 - code, 2) if code > _NO_RUN else (code + 1, code + 2)
        if made >= count and place + taken > len(segment):
            break  # bytes that are no run
        made += length
        if made > count:
            run = segment[place + 1 : place + taken] * (length if code > _NO_RUN else 1)
            surplus += run[-min(length, made - count) :]
        place += taken
        if made - length < count:
            end = place
    return (end if made >= count else len(segment)), bytes(surplus)


def _contradicts(surplus: bytes | memoryview, row: int, column: int) -> bool:
    """Whether the bytes behind the declared pixels are more pixels. ``row`` and ``column`` are the
    bytes of each. Zeros are padding, and so is less than a row, unless it is whole columns."""
    many = len(surplus) >= row or (len(surplus) > 0 and len(surplus) % column == 0)
    return many and bool(np.frombuffer(surplus, dtype=np.uint8).any())


def _are_items(data: bytes | memoryview) -> bool:
    """Whether ``data`` consists of items (PS3.5 section A.4) up to its end or their delimiter."""
    place, count = 0, 0
    while bytes(data[place : place + 4]) == _ITEM and count <= _MOST_ITEMS:
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        count += 1
    ended = bytes(data[place : place + 4]) == _SEQUENCE_END or len(data) <= place <= len(data) + 1
    return count > 1 and ended


def _pixels(words: Words, header: FilmHeader, *, planar: bool) -> Words:
    """Arrange samples as pixels, by Planar Configuration (PS3.3 C.7.6.3.1.3)."""
    if planar:
        return np.moveaxis(words.reshape(3, header.rows, header.columns), 0, -1)
    return words.reshape(header.rows, header.columns, 3)


def _check_planes(words: Words, header: FilmHeader) -> None:
    """Check that the samples lie as Planar Configuration says. Otherwise three neighbours in one
    plane would pass for the samples of a pixel, and a grey film would become nine small ones.

    Raises:
        InconsistentPixelsError: the samples agree the other way only.
    """
    pixels, planes = words.reshape(-1, 3)[::_STEP], words.reshape(3, -1)[:, ::_STEP].T
    declared, other = (
        float(np.ptp(three, axis=1).mean())
        for three in ((planes, pixels) if header.planar else (pixels, planes))
    )
    if declared > _FURTHER * other and other < _ALIKE * (1 << header.bits_stored):
        raise InconsistentPixelsError(
            f"Planar Configuration (0028,0006) is {int(header.planar)}; the samples lie the other "
            "way."
        )


def _full(words: Words, header: FilmHeader) -> Words:
    """Expand YBR_FULL_422: two Y, then the CB and CR that they share (PS3.3 C.7.6.3.1.2)."""
    pairs = words.reshape(header.rows, header.columns // 2, 4)
    pixels = np.empty((header.rows, header.columns, 3), dtype=words.dtype)
    pixels[:, 0::2, 0], pixels[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    pixels[:, 0::2, 1:] = pixels[:, 1::2, 1:] = pairs[..., 2:]
    return pixels
