"""Codestreams and pictures that say one thing and hold another."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

Frame = tuple[int, int, bytes]  # rows and columns that the DICOM header shall say


def wavelets(grey: npt.NDArray[np.uint16]) -> Iterator[Frame]:
    """JPEG 2000: sizes, tiles, levels, code blocks, layers (ISO 15444-1 annex A)."""
    rows, columns = grey.shape
    plain = bytes(imagecodecs.jpeg2k_encode(grey, level=0, codecformat="j2k", bitspersample=12))
    siz = plain.index(b"\xff\x51") + 4
    cod = plain.index(b"\xff\x52") + 4
    for side in (16000, 7999, 7000, 4000):  # a kilobyte that claims to be so large
        yield side, side, _sized(plain, siz, side, side, side)
        yield rows, columns, _sized(plain, siz, side, side, side)
    for tile in (1, 2, 8, 33):
        yield 4000, 4000, _sized(plain, siz, 4000, 4000, tile)
        yield rows, columns, _sized(plain, siz, rows, columns, tile)
    for offset, value in (
        (cod, 0xFF),
        (cod + 1, 4),
        (cod + 2, 0xFF),
        (cod + 3, 0xFF),
        (cod + 4, 1),
        (cod + 5, 0),
        (cod + 5, 32),
        (cod + 5, 33),
        (cod + 5, 255),
        (cod + 6, 0xFF),
        (cod + 7, 0xFF),
        (cod + 8, 0x40),
        (cod + 8, 0xFF),
        (cod + 9, 0),
        (cod + 9, 7),
        (siz + 36, 0x8B),
        (siz + 36, 37),
        (siz + 36, 0xFF),
        (siz + 37, 0),
        (siz + 37, 255),
        (siz + 38, 2),
    ):
        yield rows, columns, plain[:offset] + bytes([value]) + plain[offset + 1 :]
    start = plain.index(b"\xff\x90")
    for marker in (
        b"\xff\x5e\0\x05\0\0\xff",
        b"\xff\x60\0\x05\0\xff\xff",
        b"\xff\x5f\0\x09" + b"\xff" * 7,
        b"\xff\x53\0\x09\0\0\xff\xff\xff\xff\xff",
        b"\xff\x64\xff\xff",
        b"\xff\x55\0\x04\0\0",
        b"\xff\x58\0\x05\0\xff\xff",
        b"\xff\x57\0\x05\0\xff\xff",
    ):
        yield rows, columns, plain[:start] + marker + plain[start:]
    part = plain[start:-2]
    for tile_part in (
        struct.pack(">HHI", 10, 65535, 0),
        struct.pack(">HHI", 10, 0, 0xFFFFFFFF),
        struct.pack(">HHI", 10, 0, 1),
    ):
        yield rows, columns, plain[: start + 2] + tile_part + plain[start + 10 :]
    yield rows, columns, plain[:start] + part * 200 + b"\xff\xd9"
    yield rows, columns, b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 200 + plain
    high = bytes(imagecodecs.htj2k_encode(grey))
    for at in range(0, min(len(high), 200), 7):
        yield rows, columns, high[:at] + b"\xff" + high[at + 1 :]


def _sized(plain: bytes, siz: int, rows: int, columns: int, tile: int) -> bytes:
    """SIZ with other sizes; of its fields Xsiz follows two bytes of Rsiz."""
    changed = bytearray(plain)
    changed[siz + 2 : siz + 10] = struct.pack(">2I", columns, rows)
    changed[siz + 18 : siz + 26] = struct.pack(">2I", tile, tile)
    return bytes(changed)


def jpegs(grey: npt.NDArray[np.uint8]) -> Iterator[Frame]:
    """JPEG: sizes, tables, scans without end (ISO 10918-1 annex B)."""
    rows, columns = grey.shape
    plain = bytes(imagecodecs.jpeg8_encode(grey, level=90))
    lossless = bytes(imagecodecs.jpeg8_encode(grey, lossless=True))
    out = BytesIO()
    Image.fromarray(grey).save(out, "JPEG", progressive=True)
    progressive = out.getvalue()
    for data in (plain, lossless, progressive):
        sof = next(at for m in (0xC0, 0xC1, 0xC2, 0xC3) if (at := data.find(bytes([0xFF, m]))) > 0)
        for r, c in ((65535, 65535), (7999, 7999), (0, columns), (rows, 0), (7000, 7000)):
            sized = data[: sof + 5] + struct.pack(">2H", r, c) + data[sof + 9 :]
            yield r or rows, c or columns, sized
            yield rows, columns, sized
        for marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB, 0xC5, 0xF7):
            yield rows, columns, data[: sof + 1] + bytes([marker]) + data[sof + 2 :]
        for bits in (0, 2, 12, 16, 255):
            yield rows, columns, data[: sof + 4] + bytes([bits]) + data[sof + 5 :]
        for components in (0, 2, 3, 4, 255):
            yield rows, columns, data[: sof + 9] + bytes([components]) + data[sof + 10 :]
        dht = data.find(b"\xff\xc4")
        yield rows, columns, data[: dht + 5] + b"\xff" * 16 + data[dht + 21 :]
        yield rows, columns, data[:dht] + data[dht + 2 :]
        sos = data.index(b"\xff\xda")
        yield rows, columns, data[:sos] + b"\xff\xdd\0\x04\0\x01" + data[sos:]
        yield rows, columns, data[:sos] + b"\xff\xfe\xff\xff" + bytes(65533) + data[sos:]
    sof, sos = progressive.index(b"\xff\xc2"), progressive.index(b"\xff\xda")
    large = progressive[: sof + 5] + struct.pack(">2H", 7000, 7000) + progressive[sof + 9 : -2]
    scan = b"\xff\xda\0\x08\x01\x01\0\0\0\0"
    yield 7000, 7000, large + scan * 3000 + b"\xff\xd9"
    yield rows, columns, progressive[:sos] + scan * 20000 + progressive[sos:]


def jpegs_ls(grey: npt.NDArray[np.uint16]) -> Iterator[Frame]:
    """JPEG-LS: sizes, parameters (ISO 14495-1 annex C)."""
    rows, columns = grey.shape
    plain = bytes(imagecodecs.jpegls_encode(grey))
    sof, sos = plain.index(b"\xff\xf7"), plain.index(b"\xff\xda")
    for r, c in ((65535, 65535), (7999, 7999), (0, columns), (7000, 7000)):
        yield r or rows, c, plain[: sof + 5] + struct.pack(">2H", r, c) + plain[sof + 9 :]
    for bits in (0, 1, 2, 8, 16, 17, 255):
        yield rows, columns, plain[: sof + 4] + bytes([bits]) + plain[sof + 5 :]
    for parameters in ((65535, 1, 2, 3, 64), (1, 0, 0, 0, 0), (4095, 65535, 0, 9, 65535)):
        lse = b"\xff\xf8\0\x0d\x01" + struct.pack(">5H", *parameters)
        yield rows, columns, plain[:sos] + lse + plain[sos:]
    for lse in (
        b"\xff\xf8\0\x05\x02\x01\xff",
        b"\xff\xf8\0\x03\x04",
        b"\xff\xf8\0\x07\x04\x04\xff\xff\xff",
    ):
        yield rows, columns, plain[:sos] + lse + plain[sos:]
    for offset in range(4, 10):
        for value in (0, 1, 127, 255):
            yield rows, columns, plain[: sos + offset] + bytes([value]) + plain[sos + offset + 1 :]


def run_lengths() -> Iterator[bytes]:
    """RLE: segments that are not there, runs without end (PS3.5 annex G)."""
    for segments, offsets in (
        (2, (64, 64)),
        (2, (64, 0xFFFFFFFF)),
        (2, (0xFFFFFFF0, 64)),
        (2, (0, 0)),
        (15, (64,) * 15),
        (0xFFFFFFFF, (64,)),
        (0, ()),
        (2, (70, 66)),
    ):
        head = struct.pack("<I", segments) + b"".join(struct.pack("<I", at) for at in offsets)
        head = head.ljust(64, b"\0")
        for body in (b"", b"\x81\x00" * 4000, b"\x7f" + bytes(128), b"\x80" * 500, b"\x7f"):
            yield head + body


def pngs() -> Iterator[bytes]:
    """PNG and JPEG files as such: sizes, inflation, chunks without end."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(content, zlib.crc32(name))
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    def png(
        rows: int, columns: int, depth: int, colour: int, *chunks: bytes, lace: int = 0
    ) -> bytes:
        head = struct.pack(">2I5B", columns, rows, depth, colour, 0, 0, lace)
        body = b"".join(chunks)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")

    packed = zlib.compress(bytes(64 << 20), 9)
    rows = zlib.compress(bytes(65 * 64), 9)
    yield png(64, 64, 8, 0, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"IDAT", packed))
    yield png(7999, 7999, 8, 0, chunk(b"IDAT", packed))
    yield png(7999, 7999, 16, 6, chunk(b"IDAT", packed))
    yield png(7999, 7999, 16, 0, chunk(b"IDAT", packed), lace=1)
    yield png(2**31 - 1, 1, 1, 0, chunk(b"IDAT", rows))
    yield png(2**31, 2**31, 8, 2, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 3, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 3, chunk(b"PLTE", b"\1\2\3"), chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"iCCP", b"x\0\0" + packed), chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"zTXt", b"x\0\0" + packed) * 20, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"iTXt", b"x\0\1\0\0\0" + packed) * 20, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"tEXt", b"x\0y") * 100_000, chunk(b"IDAT", rows))
    yield png(64, 64, 8, 0, chunk(b"IDAT", b"") * 50_000, chunk(b"IDAT", rows))
    yield png(
        64,
        64,
        8,
        0,
        chunk(b"acTL", b"\xff" * 8),
        chunk(b"fcTL", b"\xff" * 26),
        chunk(b"IDAT", rows),
    )
    yield png(
        64,
        64,
        8,
        0,
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 60),
        chunk(b"IDAT", rows),
    )
    yield b"\x89PNG\r\n\x1a\n" + b"\xff" * 64
    yield b"\xff\xd8\xff\xe1\xff\xff" + b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 65500 + b"\xff\xd9"
