"""Read what a codestream declares in its own header, without decoding it.

A decoder allocates what the codestream declares, whatever the DICOM header says: a kilobyte of JPEG
2000 can declare 16000 × 16000 pixels. If both declare the same property, the codestream is right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from hilum.errors import DecodeError, LimitExceededError, TruncatedError

_SOC_SIZ: Final = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, image and tile size
_SOI: Final = b"\xff\xd8"  # JPEG: start of image
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_COD, _COC = 0x52, 0x53
_SOT, _SOD, _EOC = 0x90, 0x93, 0xD9
END: Final = b"\xff\xd9"  # EOC of JPEG 2000, EOI of JPEG and JPEG-LS
# JPEG frame headers (ISO 10918-1 table B.1) and JPEG-LS (ISO 14495-1): SOF55.
_SOF55: Final = 0xF7
_SOF: Final = {*range(0xC0, 0xD0), _SOF55} - {0xC4, 0xC8, 0xCC}
_LOSSLESS: Final = {0xC3, 0xC7, 0xCB, 0xCF}
_ALONE: Final = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_EOI, _SOS, _APP1, _APP14 = 0xD9, 0xDA, 0xE1, 0xEE
_MAX_COMPONENTS: Final = 4  # one to three samples, and perhaps opacity
_MAX_SCANS: Final = 100  # encoders make about ten; one of 7000 × 7000 pixels takes 20 ms
_MAX_LEVELS: Final = 32  # ISO 15444-1 table A.15
# Names of the markers: ISO 15444-1 table A.2, ISO 10918-1 table B.1, ISO 14495-1 table C.1.
_WAVELET_NAMES: Final = {
    0x4F: "SOC", 0x50: "CAP", 0x51: "SIZ", 0x52: "COD", 0x53: "COC", 0x55: "TLM", 0x57: "PLM",
    0x58: "PLT", 0x5C: "QCD", 0x5D: "QCC", 0x5E: "RGN", 0x5F: "POC", 0x60: "PPM", 0x61: "PPT",
    0x63: "CRG", 0x64: "COM", 0x90: "SOT", 0x93: "SOD", 0xD9: "EOC",
}  # fmt: skip
_NAMES: Final = {
    0xC4: "DHT", 0xCC: "DAC", 0xD8: "SOI", 0xD9: "EOI", 0xDA: "SOS", 0xDB: "DQT", 0xDC: "DNL",
    0xDD: "DRI", 0xF8: "LSE", 0xFE: "COM",
    **{0xE0 + n: f"APP{n}" for n in range(16)},
    **{marker: f"SOF{marker & 0x0F if marker != 0xF7 else 55}" for marker in sorted(_SOF)},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """What a codestream declares. Tuples of components have one entry for each."""

    rows: int
    columns: int
    components: int
    bits: int  # of the deepest component
    signed: tuple[bool, ...]  # JPEG and JPEG-LS have no sign: all false
    subsampling: tuple[tuple[int, int], ...]
    """(down, across). JPEG 2000: the distance of samples, 1 for every pixel (ISO 15444-1 table
    A.11). JPEG: the sampling factors (ISO 10918-1 B.2.2); the largest means every pixel."""
    tile: tuple[int, int] | None = None  # JPEG 2000: rows, columns of a tile
    levels: int | None = None
    """JPEG 2000: how often the size can be halved; the lowest of all components (COD, COC)."""
    colour_transform: bool | None = None
    """Whether components are mixed. JPEG 2000: by COD. JPEG: by the Adobe marker; ``None`` without
    one."""
    lossless: bool = False  # JPEG process 14
    at_origin: bool = True  # JPEG 2000: image and tile grid start at (0, 0)
    reversible: bool = False  # JPEG 2000: the 5/3 wavelet, otherwise the 9/7
    tiles: int = 1
    mended: bool = False  # JPEG 2000: it had another end than its marker
    kind: Literal["JPEG", "JPEG-LS", "JPEG 2000"] = "JPEG"


def read(data: bytes) -> Codestream:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        DecodeError: it is none of these, or its header is incomplete or absurd.
    """
    try:
        if data.startswith(_JP2) or data.startswith(_SOC_SIZ):
            return _jpeg2000(data)
        if data.startswith(_SOI):
            return _jpeg(data)
    except (struct.error, IndexError):
        raise DecodeError("The codestream ends within its header.") from None
    raise DecodeError("The pixel data does not start with a JPEG or JPEG 2000 marker.")


def check_scans(data: bytes) -> None:
    """Check that a JPEG codestream is complete, because libjpeg would fill the rest with grey, and
    that it has no absurd number of scans, because libjpeg goes through the whole film for each.

    Raises:
        TruncatedError: there is no end of image after the first scan (ISO 10918-1 B.2.1).
        LimitExceededError: there are too many scans.
    """
    scan = len(data)
    with suppress(struct.error, IndexError, DecodeError):  # it ends before the scan
        scan = next(at for marker, at, _ in segments(data, 2) if marker == _SOS)
    if data.rfind(bytes([0xFF, _EOI])) < scan:
        raise TruncatedError("The JPEG data has no EOI marker (FFD9) after its first scan.")
    scans = 1 + data.count(bytes([0xFF, _SOS]), scan)  # within a scan, FF is followed by 00
    if scans > _MAX_SCANS:
        raise LimitExceededError(
            f"The JPEG data has {scans} scans (SOS, FFDA); at most {_MAX_SCANS} are decoded.",
            next_step="Have the sender write the image as baseline JPEG.",
        )


def part(data: bytes) -> str:
    """The last part of a codestream that a decoder surely read, such as "after SOS (FFDA)"."""
    last, wavelet = "", not data.startswith(_SOI)
    with suppress(DecodeError, struct.error, IndexError):
        for marker, _, _ in segments(data, data.find(_SOC_SIZ) + 2 if wavelet else 2):
            last = f"after {_name(marker, wavelet=wavelet)}"
            if marker in {_SOS, _SOD, _EOC}:
                break
    return last or "at its first marker"


def exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG file; empty if it has none.

    Raises:
        DecodeError: the markers before the first scan are broken.
    """
    try:
        for marker, at, length in segments(data, 2):
            if marker == _APP1 and data[at : at + 6] == b"Exif\0\0":
                return data[at : at + length]
            if marker in _SOF:
                break
    except (struct.error, IndexError):
        raise DecodeError("The codestream ends within its header.") from None
    return b""


def _jpeg2000(data: bytes) -> Codestream:
    """SIZ, COD and COC marker segments, ISO 15444-1 A.5.1, A.6.1, A.6.2."""
    start = data.find(_SOC_SIZ)
    if start < 0:
        raise DecodeError("The JPEG 2000 data has no SIZ marker (FF51).")
    x1, y1, x0, y0, tile_columns, tile_rows = struct.unpack_from(">6I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    if not 1 <= components <= _MAX_COMPONENTS or x1 <= x0 or y1 <= y0:
        raise DecodeError(
            f"SIZ (FF51) declares {y1 - y0} × {x1 - x0} pixels of {components} components; "
            f"expected 1 to {_MAX_COMPONENTS}."
        )
    if not tile_columns or not tile_rows:
        raise DecodeError("SIZ (FF51) declares tiles of no size.")
    depths = [struct.unpack_from(">3B", data, start + 42 + 3 * n) for n in range(components)]
    origins = (x0, y0, *struct.unpack_from(">2I", data, start + 32))
    levels: list[int] = []
    mixed, reversible = None, False
    for marker, at, _ in segments(data, start + 2):
        if marker == _COD:
            mixed = data[at + 4] == 1
            levels.append(data[at + 5])
            reversible = data[at + 9] == 1
        elif marker == _COC:  # components below 257 have one byte of index
            levels.append(data[at + 2])
        elif marker in {_SOT, _SOD, _EOC}:
            break
    if max(levels, default=0) > _MAX_LEVELS:
        raise DecodeError(
            f"COD (FF52) declares {max(levels)} decomposition levels; at most {_MAX_LEVELS} exist."
        )
    return Codestream(
        rows=y1 - y0,
        columns=x1 - x0,
        components=components,
        bits=max((depth & 0x7F) + 1 for depth, _, _ in depths),
        signed=tuple(bool(depth & 0x80) for depth, _, _ in depths),
        subsampling=tuple((down, across) for _, across, down in depths),
        tile=(tile_rows, tile_columns),
        levels=min(levels, default=None),
        colour_transform=mixed,
        at_origin=not any(origins),
        reversible=reversible,
        tiles=_count(x1, origins[2], tile_columns) * _count(y1, origins[3], tile_rows),
        kind="JPEG 2000",
    )


def _count(end: int, origin: int, size: int) -> int:
    """The number of tiles along one axis (ISO 15444-1 equation B-5)."""
    return -(-(end - origin) // size)


def _jpeg(data: bytes) -> Codestream:
    """The first frame header, ISO 10918-1 B.2.2, and the Adobe marker, ISO 10918-6 6.5.3."""
    adobe: bool | None = None
    for marker, at, length in segments(data, 2):
        if marker == _APP14 and length >= 12 and data[at : at + 5] == b"Adobe":
            adobe = data[at + 11] != 0
        if marker in _SOF:
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, at)
            if not 1 <= components <= _MAX_COMPONENTS:
                raise DecodeError(f"The JPEG frame header declares {components} components.")
            factors = [data[at + 7 + 3 * n] for n in range(components)]
            return Codestream(
                rows=rows,
                columns=columns,
                components=components,
                bits=bits,
                signed=(False,) * components,
                subsampling=tuple((factor & 0xF, factor >> 4) for factor in factors),
                colour_transform=adobe,
                lossless=marker in _LOSSLESS,
                kind="JPEG-LS" if marker == _SOF55 else "JPEG",
            )
        if marker in {_EOI, _SOS}:
            break
    raise DecodeError("The JPEG data has no frame header (SOF) before its first scan.")


def segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, where its parameters start, their length), from the marker at ``at`` on.

    Raises:
        DecodeError: a marker is missing, or extends beyond the end.
        struct.error, IndexError: the data ends within a marker.
    """
    wavelet, before = not data.startswith(_SOI), "at the start"
    while True:
        if data[at] != 0xFF:
            raise DecodeError(f"There is no marker where one should be, {before}.")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        name = _name(marker, wavelet=wavelet)
        before = f"after {name}"
        if marker in _ALONE or marker in {_EOI, _SOD}:
            yield marker, at + 2, 0
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            raise DecodeError(f"Marker {name} has length {length}; expected at least 2.")
        if at + 2 + length > len(data):
            raise DecodeError(f"The codestream ends within {name}.")
        yield marker, at + 4, length - 2
        at += 2 + length


def _name(marker: int, *, wavelet: bool) -> str:
    """The name of a marker for people, such as "SOT (FF90)", or "FF30"."""
    known = (_WAVELET_NAMES if wavelet else _NAMES).get(marker)
    return f"{known} (FF{marker:02X})" if known else f"FF{marker:02X}"
