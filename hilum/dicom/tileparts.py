"""Check and mend the tile-parts of a JPEG 2000 codestream and its end (ISO 15444-1 A.4).

A decoder follows the lengths of the tile-parts and expects the end marker (EOC) after the last one.
Some encoders leave out the last length, which the standard allows, and write another end marker or
none, which it does not. Every tile must be there, because OpenJPEG fills a missing one with black.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from hilum.dicom import codestream
from hilum.dicom.codestream import END, Codestream
from hilum.errors import DecodeError

_SOT: Final = b"\xff\x90\x00\x0a"  # and the length of its parameters
_SOT_BYTES: Final = 12
_SOD: Final = 0x93
_LENGTH_AT: Final = 6  # Psot, in a tile-part


def mend(data: bytes, declared: Codestream) -> tuple[bytes, Codestream]:
    """Return the codestream with the length of each tile-part, and with the end marker after the
    last one and nothing behind it. It is ``mended`` if it had another end. If data of a tile-part
    is missing then, decoding all of it fails; decoding a part may not.

    Raises:
        DecodeError: it is cut short in a tile-part, or tiles are missing.
    """
    try:
        first = place = _first(data)
        tiles: set[int] = set()
        open_ended: int | None = None
        while data.startswith(_SOT, place):
            tile, length = struct.unpack_from(">HI", data, place + 4)
            end = place + length
            if length == 0:  # up to the end marker, which no data of a tile can hold
                open_ended = place
                if (end := data.find(END, _data_of(data, place))) < 0:
                    raise DecodeError(
                        "There is no end marker (EOC, FFD9) after the last SOT (FF90)."
                    )
            if end < place + _SOT_BYTES or end > len(data):
                raise DecodeError("The codestream ends within a tile-part (SOT, FF90).")
            tiles.add(tile)
            place = end
    except (struct.error, IndexError):
        raise DecodeError("The codestream ends within a tile-part header (SOT, FF90).") from None
    if place == first:
        raise DecodeError("There is no tile-part (SOT, FF90) after the main header.")
    if len(tiles) < declared.tiles:
        raise DecodeError(
            f"SIZ (FF51) declares {declared.tiles} tiles; there are tile-parts (SOT, FF90) of "
            f"{len(tiles)}."
        )
    ended = data[place : place + 4] in {END, END + b"\0"}  # a byte makes it even
    if ended and open_ended is None:
        return data, declared
    changed = bytearray(data[:place] + END)
    if open_ended is not None:
        struct.pack_into(">I", changed, open_ended + _LENGTH_AT, place - open_ended)
    return bytes(changed), replace(declared, mended=not ended)


def _first(data: bytes) -> int:
    """Where the first tile-part begins."""
    start = data.index(b"\xff\x4f\xff\x51")
    ends = (at + length for _, at, length in codestream.segments(data, start + 2))
    return next(end for end in ends if data.startswith(_SOT, end))


def _data_of(data: bytes, place: int) -> int:
    """Where the data of a tile-part begins: after its header."""
    return next(at for marker, at, _ in codestream.segments(data, place) if marker == _SOD)
