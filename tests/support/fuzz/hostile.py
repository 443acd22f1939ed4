"""Files that follow the grammar and break readers all the same.

Among them what was reported against readers of DICOM: deep sequences (pydicom 2330), pixel data in
an item of explicit length (pydicom 2324), paths in DICOMDIR (CVE-2026-32711), value representations
that do not exist in the file meta information (GDCM, CVE-2026-3650) and lengths beyond its end
(Orthanc, CVE-2026-5437), inflation (CVE-2026-5438), private compression (CVE-2026-5441), sizes as
unsigned long (CVE-2026-5442), palettes shorter than their indices (CVE-2026-5443, -5445), other
formats as pixel data (CVE-2026-5444), programs in the preamble (CVE-2019-11687).
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache

import imagecodecs
import numpy as np
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from support.encodings import described, encoded
from support.fuzz.hostile_pixels import jpegs, jpegs_ls, pngs, run_lengths, wavelets
from support.tiny_film import film

Made = Callable[[], bytes]
_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_DEFLATED, _BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_GREY = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
_DATA_SET = 132  # where a file's elements begin


def hostile() -> list[Made]:
    """All of them, always in the same order."""
    made = [*_structure(), *_attributes(), *_encapsulation(), *_codestreams()]
    return [cache(one) for one in made]


def element(group: int, number: int, code: bytes, value: bytes, length: int | None = None) -> bytes:
    """One explicit little endian element; ``length`` may lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", group, number, code)
    if code in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR"}:
        return head + struct.pack("<HI", 0, size) + value
    return head + struct.pack("<H", size & 0xFFFF) + value


def part10(body: bytes, syntax: str = _EXPLICIT, *, meta: bytes = b"", start: bytes = b"") -> bytes:
    """A file of a data set's bytes."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return start.ljust(128, b"\0") + b"DICM" + meta + element(2, 0x10, b"UI", uid) + body


def _body(**attributes: object) -> bytes:
    """The elements of a whole film, without its file meta information."""
    data = film(1, **attributes)
    return data[data.index(b"\x08\x00\x16\x00") :]


def _structure() -> list[Made]:
    open_item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    close_item = b"\xfe\xff\x0d\xe0\0\0\0\0"
    close_sequence = b"\xfe\xff\xdd\xe0\0\0\0\0"
    nest = element(0x40, 0xA730, b"SQ", open_item, 0xFFFFFFFF)

    def deep(depth: int, *, closed: bool) -> Made:
        end = (close_item + close_sequence) * depth if closed else b""
        return lambda: part10(_body()[:-8000] + nest * depth + end + _body())

    def bomb(size: int, tail: bytes = b"") -> Made:
        def made() -> bytes:
            stream = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = stream.compress(element(0x29, 0x10, b"OB", b"", size))
            chunk = bytes(1 << 20)
            for _ in range(size >> 20):
                packed += stream.compress(chunk)
            return part10(packed + stream.compress(tail) + stream.flush(), _DEFLATED)

        return made

    whole = _body()
    inside = element(
        0x40, 0xA730, b"SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(whole)) + whole
    )
    made: list[Made] = [
        *(deep(n, closed=True) for n in (30, 240, 260, 1000, 20_000)),
        *(deep(n, closed=False) for n in (240, 5000)),
        bomb(600 << 20),
        bomb(200 << 20, whole),
        lambda: part10(zlib.compress(whole), _DEFLATED),
        lambda: part10(whole, _DEFLATED),
        lambda: part10(inside),
        lambda: part10(inside + whole),
        lambda: part10(element(0x29, 0x10, b"LO", b"x") * 200_000 + whole),
        lambda: part10(b"".join(element(0x29, n, b"SQ", b"") for n in range(40_000)) + whole),
        lambda: part10(element(0x29, 0x10, b"UT", b"x" * (40 << 20)) + whole),
        lambda: part10(element(0x29, 0x10, b"UN", b"", 0xFFFFFFFE) + whole),
        lambda: part10(element(0x29, 0x10, b"OB", b"", 0xFFFFFFFF) + whole),
        lambda: part10(whole, _IMPLICIT),
        lambda: part10(whole, _BIG),
        lambda: part10(whole, "1.2.840.10008.1.2.4.103"),
        lambda: part10(whole, "../../etc/passwd"),
        lambda: part10(whole, ""),
        lambda: part10(b"\xff" * 4096),
        lambda: part10(b"\0" * 4096),
        lambda: b"\0" * 132,
        lambda: b"DICM" * 4096,
        lambda: b"\x08\x00" + b"\xff" * 600,
        # DICOMDIR
        lambda: part10(
            element(4, 0x1130, b"CS", b"A ")
            + element(4, 0x1220, b"SQ", open_item + element(4, 0x1500, b"CS", b"..\\..\\..\\ETC ")
                      + close_item + close_sequence, 0xFFFFFFFF)
        ),
    ]  # fmt: skip
    for code in (b"ZZ", b"\0\0", b"??", b"OB", b"SQ", b"UN"):
        for size in (4, 0x7FFFFFF0, 0xFFFFFFFF):
            meta = element(2, 1, code, b"\0\1\2\3", size)
            made.append(lambda meta=meta: part10(whole, meta=meta))
    for start in (b"MZ\x90", b"\x7fELF\2", b"\xcf\xfa\xed\xfe", b"#!/bin/sh\n", b"PK\x03\x04",
                  b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):  # fmt: skip
        made.append(lambda start=start: part10(whole, start=start))
    return made


def _attributes() -> list[Made]:
    """The image pixel module and the greyscale pipeline, told lies."""
    changes: list[dict[str, object]] = [{"NumberOfFrames": n} for n in (0, -1, 2, 2**31 - 1, 10**9)]
    changes += [
        {"Rows": r, "Columns": c} for r, c in ((65535, 65535), (0, 48), (1, 65535), (48, 0))
    ]
    changes += [{"BitsAllocated": a, "BitsStored": s, "HighBit": h}
                for a, s, h in ((16, 17, 16), (32, 32, 31), (1, 1, 0), (64, 64, 63), (16, 0, 0),
                                (16, 12, 3), (65535, 65535, 65534))]  # fmt: skip
    changes += [{"SamplesPerPixel": n} for n in (0, 3, 4, 65535)]
    changes += [{"WindowCenter": c, "WindowWidth": w}
                for c, w in (("1e300", "1e-300"), ("1e9", "0"), (["1"] * 5000, ["2"] * 5000),
                             ("-0", "1"), ("1", "0.5"))]  # fmt: skip
    changes += [
        {"RescaleSlope": s, "RescaleIntercept": i}
        for s, i in (("0", "1"), ("1e300", "1e300"), ("-1e-300", "0"))
    ]
    changes += [{"PixelPaddingValue": v} for v in (0, 65535)]
    changes += [
        {"SpecificCharacterSet": c}
        for c in ("ISO_IR 999", "\\".join(["ISO 2022 IR 87"] * 400), "ISO 2022 IR 149\\ISO_IR 192")
    ]
    made: list[Made] = [lambda change=change: _film_or_broken(change) for change in changes]
    whole = _body()
    rows = whole.index(b"\x28\x00\x10\x00US\x02\x00")
    for count in (64, 65536 + 48, 2**31, 2**32 - 1):
        long = element(0x28, 0x10, b"UL", struct.pack("<I", count))
        made.append(lambda long=long: part10(whole[:rows] + long + whole[rows + 10 :]))
    for count, first, bits in ((4, 0, 16), (0, 0, 16), (65535, 65535, 8), (256, 0, 33), (1, 9, 16)):
        triple = struct.pack("<3H", count, first, bits)
        palette = b"".join(element(0x28, 0x1101 + n, b"US", triple) for n in range(3)) + b"".join(
            element(0x28, 0x1201 + n, b"OW", b"\1\2" * 8) for n in range(3)
        )
        made.append(lambda palette=palette: _palette(palette))
        lut = element(0x28, 0x3002, b"US", triple) + element(0x28, 0x3006, b"OW", b"\7\1" * 9)
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(lut)) + lut
        for number in (0x3000, 0x3010):
            sequence = element(0x28, number, b"SQ", item)
            made.append(lambda sequence=sequence: _before_pixels(sequence))
    return made


def _film_or_broken(change: dict[str, object]) -> bytes:
    """By hand where pydicom's writer would refuse the lie."""
    if any(isinstance(value, int) for value in change.values()):
        return _lied(change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return film(3, **change)


def _lied(change: dict[str, object]) -> bytes:
    tags = {"Rows": 0x10, "Columns": 0x11, "BitsAllocated": 0x100, "BitsStored": 0x101,
            "HighBit": 0x102, "SamplesPerPixel": 2, "PixelPaddingValue": 0x120}  # fmt: skip
    whole = bytearray(_body())
    for keyword, value in change.items():
        if keyword in tags and isinstance(value, int):
            head = struct.pack("<HH", 0x28, tags[keyword]) + b"US\x02\x00"
            at = whole.find(head)
            if at >= 0:
                whole[at + 8 : at + 10] = struct.pack("<H", value & 0xFFFF)
        elif keyword == "NumberOfFrames":
            text = str(value).encode()
            frames = element(0x28, 8, b"IS", text + b" " * (len(text) % 2))
            at = whole.index(b"\x28\x00\x10\x00US")
            whole[at:at] = frames
    return part10(bytes(whole))


def _before_pixels(extra: bytes) -> bytes:
    whole = _body()
    at = whole.index(b"\xe0\x7f\x10\x00")
    return part10(whole[:at] + extra + whole[at:])


def _palette(extra: bytes) -> bytes:
    whole = _body(PhotometricInterpretation="PALETTE COLOR")
    at = whole.index(b"\xe0\x7f\x10\x00")
    return part10(whole[:at] + extra + whole[at:])


def _encapsulation() -> list[Made]:
    frame = bytes(imagecodecs.jpegls_encode(_GREY))
    grey = described(_GREY, bits=12)
    good = encoded(frame, JPEGLSLossless, **grey)
    at = good.index(b"\xe0\x7f\x10\x00OB") + 12
    head, items = good[:at], good[at:]
    item = b"\xfe\xff\x00\xe0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    empty = item + b"\0\0\0\0"
    return [
        lambda: head + empty * 200_000 + end,
        lambda: head + empty * 60_000 + items,
        lambda: head + empty + item + struct.pack("<I", 0xFFFFFFFF) + frame,
        lambda: head + empty + item + struct.pack("<I", 0x7FFFFFFF) + frame,
        lambda: head + item + struct.pack("<I", 8) + b"\xff" * 8 + items[8:],
        lambda: head + items[8:],
        lambda: head + end,
        lambda: head,
        lambda: head + b"".join(
            item + struct.pack("<I", 1) + frame[n : n + 1] for n in range(len(frame))
        ) + end,
        lambda: head + frame + end,
    ]  # fmt: skip


def _codestreams() -> list[Made]:
    grey12, grey8 = described(_GREY, bits=12), described(_GREY.astype(np.uint8), bits=8)
    made: list[Made] = []
    for rows, columns, frame in wavelets(_GREY):
        size = {**grey12, "rows": 8, "columns": 8}
        for syntax in (JPEG2000Lossless, JPEG2000, HTJ2KLossless):
            made.append(
                lambda s=syntax, f=frame, r=rows, c=columns, m=size: _sized(
                    encoded(f, s, **m), r, c
                )
            )
    for rows, columns, frame in jpegs(_GREY.astype(np.uint8)):
        for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1):
            made.append(
                lambda s=syntax, f=frame, r=rows, c=columns: _sized(encoded(f, s, **grey8), r, c)
            )
    for rows, columns, frame in jpegs_ls(_GREY):
        made.append(
            lambda f=frame, r=rows, c=columns: _sized(encoded(f, JPEGLSLossless, **grey12), r, c)
        )
    made += [lambda f=f: encoded(f, RLELossless, **grey12) for f in run_lengths()]
    other = [b"P7\nWIDTH 65536\nHEIGHT 65536\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n",
             b"\x89PNG\r\n\x1a\n" + bytes(64), b"II*\0\x08\0\0\0" + bytes(64), b"BM" + bytes(64),
             b"\0\0", b"\0" * 64]  # fmt: skip
    for frame in other:
        for syntax in (JPEGBaseline8Bit, JPEG2000, RLELossless, JPEGLSLossless):
            made.append(lambda s=syntax, f=frame: encoded(f, s, **grey8))
    return made + [lambda data=data: data for data in pngs()]


def _sized(data: bytes, rows: int, columns: int) -> bytes:
    """The same object, its header saying what its codestream says."""
    changed = bytearray(data)
    for number, count in ((0x10, rows), (0x11, columns)):
        at = changed.index(struct.pack("<HH", 0x28, number) + b"US\x02\x00") + 8
        changed[at : at + 2] = struct.pack("<H", count & 0xFFFF)
    return bytes(changed)
