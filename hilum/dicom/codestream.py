"""What a codestream says of itself, read from its own header without decoding.

A decoder allocates what the codestream declares, whatever the DICOM header says: a kilobyte of
JPEG 2000 can declare 16000 × 16000.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hilum.errors import DecodeError

_SOC_SIZ = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, image and tile size
_JP2 = b"\x00\x00\x00\x0cjP  "
# JPEG frame headers (ISO 10918-1 table B.1) and JPEG-LS (ISO 14495-1): SOF55.
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """Size and depth as the codestream declares them."""

    rows: int
    columns: int
    components: int
    bits: int


def read(data: bytes) -> Codestream:
    """The header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        DecodeError: it is none of these, or its header is incomplete.
    """
    try:
        if data.startswith(_JP2) or data.startswith(_SOC_SIZ):
            return _jpeg2000(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (struct.error, IndexError):
        raise DecodeError("The codestream ends within its header.") from None
    raise DecodeError("The pixel data does not start with a JPEG or JPEG 2000 marker.")


def _jpeg2000(data: bytes) -> Codestream:
    """SIZ marker segment, ISO 15444-1 table A.9."""
    start = data.find(_SOC_SIZ)
    if start < 0:
        raise DecodeError("The JPEG 2000 data has no SIZ marker.")
    _, _, x1, y1, x0, y0 = struct.unpack_from(">HHIIII", data, start + 4)
    (components,) = struct.unpack_from(">H", data, start + 40)
    depth = data[start + 42]
    return Codestream(rows=y1 - y0, columns=x1 - x0, components=components, bits=(depth & 0x7F) + 1)


def _jpeg(data: bytes) -> Codestream:
    """The first frame header, ISO 10918-1 section B.2.2."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise DecodeError(f"There is no JPEG marker where one should be, at byte {at}.")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _SOF:
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
            return Codestream(rows=rows, columns=columns, components=components, bits=bits)
        if marker in {0xD9, 0xDA}:
            raise DecodeError("The JPEG data has no frame header before its first scan.")
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
