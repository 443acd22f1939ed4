"""PNG and JPEG files beside DICOM."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps
from support.colour_cases import GREY, rgb
from support.tiny_film import film

from hilum import dicom
from hilum.dicom import Film
from hilum.errors import HilumError
from hilum.packages.manifest import InputPolicy
from hilum.pipeline import admit
from hilum.settings import Limits

LIMITS = Limits()
ORIENTATION = 0x0112


def shown(data: bytes, limits: Limits = LIMITS) -> Film:
    return dicom.decode(dicom.open_film(data, limits))


def saved(image: Image.Image, kind: str, orientation: int | None = None) -> bytes:
    out = BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    image.save(out, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))
    return out.getvalue()


PNG = saved(Image.fromarray(GREY), "PNG")
JPEG = saved(Image.fromarray(GREY), "JPEG")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(columns: int, rows: int, *, colour: int = 0, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg_of_size(columns: int, rows: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", rows, columns) + JPEG[at + 4 :]


def test_the_header_says_nothing() -> None:
    header = dicom.open_film(PNG, LIMITS).header
    assert header.picture == "png"
    assert (header.sop_instance_uid, header.modality, header.body_part, header.view) == (
        "", None, None, None,
    )  # fmt: skip
    assert (header.rows, header.columns, header.bits_stored) == (62, 46, 8)
    assert dicom.open_film(JPEG, LIMITS).header.picture == "jpeg"


def test_dicom_stays_dicom() -> None:
    assert dicom.open_film(film(1), LIMITS).header.picture is None
    # A preamble may hold the signature of another format (PS3.10 section 7.1).
    both = b"\x89PNG\r\n\x1a\n" + film(1)[8:]
    assert dicom.open_film(both, LIMITS).header.modality == "DX"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_an_exif_orientation_is_followed(kind: str, orientation: int | None) -> None:
    data = saved(Image.fromarray(GREY), kind, orientation)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = shown(data)
    assert found.pixels.shape == expected.shape == (found.header.rows, found.header.columns)
    np.testing.assert_allclose(found.pixels, expected / 255, atol=1.1 / 255)


def test_a_broken_exif_block_is_as_none() -> None:
    data = saved(Image.fromarray(GREY), "JPEG", 6)
    at = data.index(b"Exif\0\0")
    broken = data[: at + 6] + b"\xff" * 8 + data[at + 14 :]
    assert shown(broken).pixels.shape == GREY.shape


def test_colour_has_a_flag_or_is_refused() -> None:
    grey = saved(Image.fromarray(rgb(GREY)), "PNG")
    assert dicom.open_film(grey, LIMITS).header.flags == ("colour_capture",)
    pixels = rgb(GREY)
    pixels[:5, :, 0] ^= 0x80
    with pytest.raises(HilumError, match=r"dicom\.coloured_pixels"):
        shown(saved(Image.fromarray(pixels), "PNG"))


def test_only_a_policy_that_lists_other_takes_them() -> None:
    header = dicom.open_film(PNG, LIMITS).header
    with pytest.raises(HilumError) as caught:
        admit.check(header, InputPolicy())
    assert caught.value.code == "policy.plain_image"
    assert "PNG" in caught.value.detail
    other = InputPolicy(modalities=("DX", "OTHER"))
    assert admit.check(header, other) == ("plain_image", "body_part_unknown", "view_unknown")
    with pytest.raises(HilumError, match=r"policy\.not_frontal"):
        admit.check(header, InputPolicy(modalities=("OTHER",), unknown_view="refuse"))
    colour = dicom.open_film(saved(Image.fromarray(rgb(GREY)), "PNG"), LIMITS).header
    assert admit.check(colour, other)[:2] == ("colour_capture", "plain_image")


def transparent() -> bytes:
    image = Image.fromarray(GREY).convert("LA")
    image.putalpha(Image.fromarray(GREY))
    return saved(image, "PNG")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PNG[:20], "dicom.decode_failed"),
        (PNG[:60], "dicom.truncated"),
        (PNG[:-100], "dicom.truncated"),
        (PNG[:-12], "dicom.truncated"),
        (PNG[:-60] + bytes([PNG[-60] ^ 1]) + PNG[-59:], "dicom.decode_failed"),
        (PNG.replace(b"IHDR", b"JHDR"), "dicom.decode_failed"),
        (png_of_size(0, 10), "dicom.inconsistent_pixels"),
        (png_of_size(10, 10, colour=7), "dicom.decode_failed"),
        (png_of_size(10, 10), "dicom.decode_failed"),
        (png_of_size(60000, 60000), "dicom.limit_exceeded"),
        (jpeg_of_size(60000, 60000), "dicom.limit_exceeded"),
        (jpeg_of_size(0, 10), "dicom.inconsistent_pixels"),
        (JPEG[:3], "dicom.decode_failed"),
        (JPEG[:200], "dicom.truncated"),
        (JPEG[:-2], "dicom.truncated"),
        (b"\xff\xd8\xff\xd9", "dicom.decode_failed"),
        (transparent(), "dicom.unsupported_pixels"),
        (saved(Image.new("CMYK", (20, 20)), "JPEG"), "dicom.unsupported_pixels"),
    ],
)
def test_refusals(data: bytes, code: str) -> None:
    with pytest.raises(HilumError) as caught:
        shown(data)
    assert caught.value.code == code, caught.value


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_all_depths_of_grey(depth: int) -> None:
    """Written by hand: every value of a depth in a row (PNG 7.2)."""
    count = 1 << depth
    values = np.arange(min(count, 256)) * (257 if depth == 16 else 1)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, -depth:]
    row = b"\0" + np.packbits(bits.reshape(-1)).tobytes()
    header = struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0)
    data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))  # fmt: skip
    np.testing.assert_allclose(shown(data).pixels[0], values / (count - 1), atol=1e-6)


def test_16_bits_of_colour_keep_8() -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (9, 7), dtype=np.uint16)
    data = bytes(imagecodecs.png_encode(rgb(deep)))
    np.testing.assert_allclose(shown(data).pixels, deep / 65535, atol=1 / 255)


def test_a_transparent_colour_is_transparency() -> None:
    out = BytesIO()
    Image.fromarray(GREY).save(out, "PNG", transparency=int(GREY[5, 5]))
    with pytest.raises(HilumError, match=r"transparent"):
        shown(out.getvalue())


def grey_png(values: np.ndarray, depth: int, *, alpha: int | None = None, key: bytes = b"",
             interlaced: bool = False) -> bytes:  # fmt: skip
    """Written by hand, filter 1: grey ``[H, W]`` of 8 or 16 bits, with a constant alpha."""
    samples = (
        values[..., None] if alpha is None else np.dstack([values, np.full_like(values, alpha)])
    )
    passes = [samples]
    if interlaced:  # Adam7 (PNG 8.2)
        corners = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                   (0, 1, 2, 2), (1, 0, 2, 1)]  # fmt: skip
        passes = [samples[y::down, x::right] for y, x, down, right in corners]
    rows = b""
    for part in passes:
        raw = part.astype(f">u{depth // 8}").view(np.uint8).reshape(len(part), part.shape[1], -1)
        raw[:, 1:] -= raw[:, :-1].copy()
        rows += b"".join(b"\1" + row.tobytes() for row in raw)
    header = struct.pack(">IIBBBBB", *values.shape[::-1], depth, 0 if alpha is None else 4, 0, 0,
                         int(interlaced))  # fmt: skip
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + (chunk(b"tRNS", key) if key else b"")
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))  # fmt: skip


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_opaque_grey_is_grey(depth: int, interlaced: bool) -> None:
    top = (1 << depth) - 1
    values = np.random.default_rng(depth).integers(0, top + 1, (37, 29)).astype(np.uint16)
    values[values == 200] = 201
    for extra in ({"alpha": top}, {"key": b"\0\xc8"}, {}):
        data = grey_png(values, depth, interlaced=interlaced, **extra)
        found = shown(data)
        assert found.header.bits_stored == depth
        assert not found.header.flags
        np.testing.assert_allclose(found.pixels, values / top, atol=1e-6)
    values[30, 20] = 200
    for data in (
        grey_png(values, depth, alpha=top - 1),
        grey_png(values, depth, key=b"\0\xc8", interlaced=interlaced),
    ):
        with pytest.raises(HilumError, match=r"transparent"):
            shown(data)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_grey_of_few_bits(depth: int) -> None:
    values = np.arange(1 << depth)[None].repeat(3, axis=0)
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
    rows = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in bits))
    head = struct.pack(">IIBBBBB", 1 << depth, 3, depth, 0, 0, 0, 0)
    for key in ((1 << depth) - 1, 0):
        data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", bytes([0, key]))
                + chunk(b"IDAT", rows) + chunk(b"IEND", b""))  # fmt: skip
        with pytest.raises(HilumError, match=r"transparent"):
            shown(data)


@pytest.mark.parametrize("entries", [0, 10])
def test_a_palette_without_the_entries_that_pixels_name(entries: int) -> None:
    image = Image.fromarray(GREY).convert("P")
    whole = saved(image, "PNG")
    at = whole.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(whole[at : at + 4], "big")
    palette = chunk(b"PLTE", bytes(3 * entries)) if entries else b""
    assert shown(whole).pixels.shape == GREY.shape
    with pytest.raises(HilumError, match=f"its palette has {entries}") as caught:
        shown(whole[:at] + palette + whole[end:])
    assert caught.value.code == "dicom.decode_failed"


def test_more_bytes_than_allowed() -> None:
    with pytest.raises(HilumError, match=r"storage\.object_too_large"):
        shown(PNG, Limits(max_object_bytes=100))


def test_size_is_bounded_before_anything_is_decoded() -> None:
    bombs = [png_of_size(30000, 30000), jpeg_of_size(65000, 65000)]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(HilumError):
            shown(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_cut_jpeg_does_not_pass_for_whole() -> None:
    """libjpeg fills what is missing with grey and only warns."""
    whole = imagecodecs.jpeg8_encode(np.random.default_rng(1).integers(0, 256, (400, 300), "u1"))
    assert shown(bytes(whole)).pixels.shape == (400, 300)
    with pytest.raises(HilumError, match=r"dicom\.truncated"):
        shown(bytes(whole[: len(whole) // 2]))
    thumbnail = b"\xff\xe1\0\x08Ex\xff\xd9\0\0"  # an end of image of its own, in its own segment
    with pytest.raises(HilumError, match=r"dicom\.truncated"):
        shown(bytes(whole[:2] + thumbnail + whole[2 : len(whole) // 2]))
