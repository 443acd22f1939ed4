"""Read the header of PNG files, and decode their pixels with Pillow (PNG, third edition).

The PNG decoder of imagecodecs is not used: it accepts damaged pixels with a warning on stderr, and
each failure loses a reference to ``None``, until the process dies.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import PngImagePlugin

from hilum.errors import DecodeError, TruncatedError, UnsupportedPixelsError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLOUR: Final = {0: False, 2: True, 3: True, 4: False, 6: True}  # colour types, 11.2.1
_GREY: Final = 0
_GREY_AND_ALPHA: Final = 4
_INDEXED: Final = 3
_MODES: Final = {"1": "L", "P": "RGB", "PA": "RGBA"}  # modes that Pillow must expand


def header(data: bytes) -> tuple[int, int, int, bool]:
    """Rows, columns, decoded bits, and whether it is colour, from IHDR (11.2.1).

    Raises:
        DecodeError: there is no valid IHDR.
    """
    try:
        name, columns, rows, depth, colour = struct.unpack_from(">4sIIBB", data, 12)
    except struct.error:
        raise DecodeError("The PNG ends within its header.") from None
    if name != b"IHDR" or colour not in _COLOUR or depth not in {1, 2, 4, 8, 16}:
        raise DecodeError("The PNG does not start with a valid IHDR chunk.")
    # Fewer bits are expanded to 8; colour of 16 bits is reduced to 8.
    return rows, columns, 16 if depth == 16 and not _COLOUR[colour] else 8, _COLOUR[colour]


def exif(data: bytes) -> bytes:
    """The eXIf chunk before the pixels; empty if there is none.

    Raises:
        TruncatedError, DecodeError: a chunk is cut or damaged.
    """
    for name, content in _chunks(data):
        if name == b"eXIf":
            return content
        if name == b"IDAT":
            break
    return b""


def decode(data: bytes) -> npt.NDArray[Any]:
    """The pixels, uint8 or uint16, ``[H, W]`` or ``[H, W, 3]``. The caller bounds the size.

    Raises:
        TruncatedError: the file ends before its IEND chunk.
        DecodeError: a chunk is damaged, or cannot be decoded.
        UnsupportedPixelsError: parts of the image are transparent.
    """
    ended, key, entries = False, None, 0
    for name, content in _chunks(data):
        ended = ended or name == b"IEND"
        key = content if name == b"tRNS" else key
        entries = len(content) // 3 if name == b"PLTE" else entries
    if not ended:
        raise TruncatedError("The PNG ends before its IEND chunk.")
    depth, colour = data[24:26]
    deep_with_alpha = (depth, colour) == (16, _GREY_AND_ALPHA)
    try:
        # Not Image.open: its own bound on pixels is a warning, and warnings are the process's.
        source = BytesIO(_as_four_bytes(data) if deep_with_alpha else data)
        with PngImagePlugin.PngImageFile(source) as image:
            mode = _MODES.get(image.mode, image.mode)
            last = int(np.asarray(image).max()) if colour == _INDEXED else -1
            if "transparency" in image.info and colour != _GREY:
                mode = "RGBA"
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever broken data provokes
        raise DecodeError(f"The PNG decoder failed ({type(error).__name__}).") from None
    if colour == _INDEXED and last >= entries:
        raise DecodeError(f"A pixel of the PNG has colour {last}; its palette has {entries}.")
    if deep_with_alpha:
        pixels = np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)
    top = np.iinfo(pixels.dtype).max
    if colour == _GREY:
        transparent = key is not None and len(key) == 2 and _has(pixels, key, depth)
    else:
        transparent = pixels.shape[2:] in {(2,), (4,)} and bool((pixels[..., -1] != top).any())
    if transparent:
        raise UnsupportedPixelsError("Parts of the PNG are transparent; expected opaque.")
    if pixels.shape[2:] in {(2,), (4,)}:
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return pixels


def _as_four_bytes(data: bytes) -> bytes:
    """Relabel 16-bit grey with alpha as 8-bit RGB with alpha, of which Pillow keeps every bit: both
    have four bytes a pixel, and filters and interlacing (7.2, 8, 9) work on bytes."""
    head = b"IHDR" + data[16:24] + bytes((8, 6)) + data[26:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


def _has(pixels: npt.NDArray[Any], key: bytes, depth: int) -> bool:
    """Whether a pixel has the grey that tRNS (11.3.1.1) makes transparent. A grey of fewer than 8
    bits is expanded like the pixels."""
    grey = int.from_bytes(key, "big") & ((1 << depth) - 1)
    return bool((pixels == (grey * 255 // ((1 << depth) - 1) if depth < 8 else grey)).any())


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk (5.3), with its checksum verified."""
    at = len(SIGNATURE)
    while at < len(data):
        if len(data) < at + 12:
            raise TruncatedError("The PNG ends within a chunk.")
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if len(data) < end + 4:
            raise TruncatedError("The PNG ends within a chunk.")
        content = data[at + 8 : end]
        if zlib.crc32(content, zlib.crc32(name)) != int.from_bytes(data[end : end + 4], "big"):
            raise DecodeError("A chunk of the PNG has a wrong checksum.")
        yield name, content
        if name == b"IEND":
            return
        at = end + 4
