"""The pyramid of resolutions in a JPEG 2000 codestream (ISO 15444-1 annex A)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hilum.errors import DecodeError

_SIZ: Final = b"\xff\x4f\xff\x51"  # SOC, then SIZ
_COD: Final = 0xFF52
_SOT: Final = 0xFF90


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """What decides whether and how far a film may be decoded at lower resolution."""

    rows: int
    columns: int
    signed: bool
    at_origin: bool  # image and tile grid start at (0, 0)
    levels: int  # of wavelet decomposition, 0 to 32


def pyramid(data: bytes) -> Pyramid:
    """Read SIZ (A.5.1) and COD (A.6.1) of the codestream in ``data``.

    Raises:
        DecodeError: one of them is not there.
    """
    start = data.find(_SIZ)
    try:
        if start < 0:
            raise DecodeError("The JPEG 2000 data has no SIZ marker.")
        at = start + 4
        size = struct.unpack_from(">8I", data, at + 4)
        columns, rows, *origins = size[0] - size[2], size[1] - size[3], size[2], size[3], *size[6:]
        signed = bool(data[at + 38] & 0x80)
        while True:
            (length,) = struct.unpack_from(">H", data, at)
            at += length
            (marker,) = struct.unpack_from(">H", data, at)
            at += 2
            if marker == _COD:
                break
            if marker == _SOT or length < 2:
                raise DecodeError("The JPEG 2000 main header has no COD marker.")
        levels = data[at + 7]
    except (struct.error, IndexError):
        raise DecodeError("The codestream ends within its header.") from None
    return Pyramid(
        rows=rows, columns=columns, signed=signed, at_origin=not any(origins), levels=levels
    )


def whole(data: bytes) -> bool:
    """Whether the codestream has its end marker (EOC, A.4.4), pad byte aside."""
    return data[-3:].rstrip(b"\0").endswith(b"\xff\xd9")
