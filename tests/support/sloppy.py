"""One film as careless writers frame it: each file is another habit, its pixels are the same."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from support.encodings import described, encoded, native, rewritten

from benchmarks import films

ROWS, COLUMNS = 256, 200
# Neighbours differ by little, as in a film.
PIXELS = (2048 + 2000 * np.sin(np.add.outer(np.arange(ROWS) / 31, np.arange(COLUMNS) / 23))).astype(
    np.uint16
)
_SAID = {**described(PIXELS, bits=12), "WindowCenter": 2048, "WindowWidth": 4096}
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_WINDOW = b"\x28\x00\x50\x10DS"
_EMPTY = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
_COMMENT = b"\xff\x64\x00\x08\x00\x01abcd"


def plain() -> bytes:
    """As it should be."""
    return native(PIXELS, ExplicitVRLittleEndian, **_SAID)


def kinds() -> Iterator[tuple[str, bytes]]:
    """The name of a habit and a film with it."""
    yield from _elements()
    yield from _big_endian()
    yield from _deflated()
    yield from _items()
    yield from _codestreams()
    yield from _run_lengths()


def short(code: bytes, value: bytes) -> bytes:
    """Pixel Padding Value (0028,0120) with two bytes of length."""
    return b"\x28\x00\x20\x01" + code + struct.pack("<H", len(value)) + value


def long(code: bytes, value: bytes) -> bytes:
    """The same with four."""
    return b"\x28\x00\x20\x01" + code + b"\0\0" + struct.pack("<I", len(value)) + value


def _elements() -> Iterator[tuple[str, bytes]]:
    whole = plain()
    at = whole.index(_WINDOW)
    for code in (b"  ", b"??", b"\0\0", b"ZZ", b"U ", b"\xff\xff"):
        for made in (short, long):
            yield f"VR {code!r}, {made.__name__}", whole[:at] + made(code, b"\0\0") + whole[at:]
    for number in (b"\x10\x00", b"\x11\x00"):
        whole = whole.replace(b"\x28\x00" + number + b"US", b"\x28\x00" + number + b"  ")
    yield "Rows and Columns of two spaces", whole
    whole = plain()
    at = whole.index(_PIXEL_DATA)
    yield "Pixel Data of two spaces", whole[: at + 4] + b"  " + whole[at + 6 :]
    yield "Pixel Data of UN", whole[: at + 4] + b"UN" + whole[at + 6 :]
    yield "Number of Frames 0", native(PIXELS, ExplicitVRLittleEndian, **_SAID, NumberOfFrames=0)
    for name, tail in (("zeros", bytes(700)), ("noise", b"\x12\x34\x99junk" * 60),
                       ("an element cut", b"\xfc\xff\xfc\xffOB\0\0\xff\xff\0\0abc")):  # fmt: skip
        yield f"{name} behind Pixel Data", whole + tail


def _big_endian() -> Iterator[tuple[str, bytes]]:
    whole = native(PIXELS, ExplicitVRBigEndian, **_SAID)
    at = whole.index(b"\x00\x28\x00\x02US")
    for order in "<>":
        for inner in (
            struct.pack(f"{order}HHI", 0x29, 0x1001, 6) + b"ZEBRA ",
            struct.pack(f"{order}HH2sH", 0x29, 0x1001, b"LO", 6) + b"ZEBRA ",
            b"",
        ):
            head = f"{order}HHI"
            unknown = (
                struct.pack(">HH2sHI", 0x29, 0x1010, b"UN", 0, 0xFFFFFFFF)
                + struct.pack(head, 0xFFFE, 0xE000, 0xFFFFFFFF)
                + inner
                + struct.pack(head, 0xFFFE, 0xE00D, 0)
                + struct.pack(head, 0xFFFE, 0xE0DD, 0)
            )
            yield f"UN without length, {order}, {len(inner)}", whole[:at] + unknown + whole[at:]


def _deflated() -> Iterator[tuple[str, bytes]]:
    whole = rewritten(plain(), DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<I", whole, 140)
    start = 144 + length
    body = zlib.decompress(whole[start:], -15)
    endless = zlib.compressobj(9, zlib.DEFLATED, -15)
    yield "deflated, bytes behind", whole + b"junk"
    yield "deflated in zlib's envelope", whole[:start] + zlib.compress(body)
    yield "deflated in gzip's envelope", whole[:start] + gzip.compress(body)
    yield "deflated in zlib's envelope, even", whole[:start] + zlib.compress(body, 9) + b"\0"
    yield (
        "deflated without an end",
        whole[:start] + endless.compress(body) + endless.flush(zlib.Z_SYNC_FLUSH),
    )


def frames() -> dict[str, tuple[str, bytes]]:
    """Transfer syntax and codestream, without loss."""
    lossless: dict[str, Any] = {"level": 0, "codecformat": "j2k", "bitspersample": 12}
    return {
        "JPEG 2000": (JPEG2000Lossless, bytes(imagecodecs.jpeg2k_encode(PIXELS, **lossless))),
        "HTJ2K": (HTJ2KLossless, films.htj2k(PIXELS, 12)),
        "JPEG-LS": (JPEGLSLossless, bytes(imagecodecs.jpegls_encode(PIXELS))),
        "JPEG": (JPEGLosslessSV1, bytes(imagecodecs.ljpeg_encode(PIXELS, bitspersample=12))),
        "RLE": (RLELossless, rle(*(packed(part) for part in halves()))),
    }


def film(frame: bytes, syntax: str, **more: Any) -> bytes:
    """The film with ``frame`` as its pixel data."""
    return encoded(frame + b"\0" * (len(frame) % 2), syntax, **{**_SAID, **more})


def _items() -> Iterator[tuple[str, bytes]]:
    noise = b"\x12\x34\x99junk" * 9
    for name, (syntax, frame) in frames().items():
        whole = film(frame, syntax)
        at = whole.index(_PIXEL_DATA + b"OB") + 12
        table = 8 + int.from_bytes(whole[at + 4 : at + 8], "little")
        length = struct.pack("<I", len(whole) - at)
        yield f"{name}, no end of the items", whole[:-8]
        yield f"{name}, zeros for the end of the items", whole[:-8] + bytes(8)
        yield f"{name}, half an end of the items", whole[:-4]
        yield f"{name}, noise for the end of the items", whole[:-8] + noise
        yield f"{name}, noise behind the items", whole + noise
        yield f"{name}, items with a length", whole[: at - 4] + length + whole[at:]
        yield f"{name}, no offset table", whole[:at] + whole[at + table :]
        yield (
            f"{name}, no offset table, an empty item",
            whole[:at] + whole[at + table : -8] + _EMPTY,
        )
        yield f"{name}, noise behind the codestream", film(frame + noise[:60], syntax)
        yield f"{name}, zeros behind the codestream", film(frame + bytes(50), syntax)
        yield f"{name}, Number of Frames 0", film(frame, syntax, NumberOfFrames=0)
        if len(frame) % 2:
            yield f"{name}, no byte to make it even", whole[:-9]


def _codestreams() -> Iterator[tuple[str, bytes]]:
    found = frames()
    for name in ("JPEG 2000", "HTJ2K"):
        syntax, frame = found[name]
        at = frame.index(b"\xff\x90\x00\x0a") + 6
        open_ended = frame[:at] + bytes(4) + frame[at + 4 :]
        for what, made in (
            ("marker behind the last tile-part", frame[:-2] + _COMMENT + frame[-2:]),
            ("marker and no end", frame[:-2] + _COMMENT),
            ("no end", frame[:-2]),
            ("zeros for its end", frame[:-2] + bytes(6)),
            ("fill byte behind its end", frame + b"\xff"),
            ("tile-part without a length", open_ended),
            ("tile-part without a length, zeros", open_ended + bytes(3)),
            ("tile-part without a length, noise", open_ended + b"\x12\x34junk"),
        ):
            yield f"{name}, {what}", film(made, syntax)
    syntax, frame = found["JPEG-LS"]
    yield "JPEG-LS, no end", film(frame[:-2], syntax)
    yield "JPEG-LS, zeros for its end", film(frame[:-2] + bytes(2), syntax)


def halves() -> tuple[bytes, bytes]:
    """The high and the low bytes of the pixels."""
    return (PIXELS >> 8).astype(np.uint8).tobytes(), (PIXELS & 255).astype(np.uint8).tobytes()


def packed(data: bytes) -> bytes:
    """An RLE segment."""
    found = bytes(imagecodecs.packbits_encode(data))
    return found + b"\0" * (len(found) % 2)


def rle(*segments: bytes) -> bytes:
    """An RLE frame (PS3.5 annex G)."""
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    head = struct.pack(f"<{1 + len(offsets)}I", len(segments), *offsets)
    return head.ljust(64, b"\0") + b"".join(segments)


def _run_lengths() -> Iterator[tuple[str, bytes]]:
    high, low = halves()
    for name, tail in (
        ("a byte", b"\0\0"),
        ("a byte that begins a run", b"\x05"),
        ("bytes that are no run", b"\x7fabc"),
        ("a run", b"\x90\x07"),
        ("zeros", b"\x81\0" * 400),
    ):
        segments = [bytes(imagecodecs.packbits_encode(part)) + tail for part in (high, low)]
        yield f"RLE, {name} behind each segment", film(rle(*segments), RLELossless)
    yield (
        "RLE, a run beyond the segment",
        film(
            rle(
                *(bytes(imagecodecs.packbits_encode(part + part[-1:] * 40)) for part in (high, low))
            ),
            RLELossless,
        ),
    )
