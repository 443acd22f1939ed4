"""What codestreams declare, and broken ones."""

from __future__ import annotations

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from hilum.dicom import codestream
from hilum.errors import DecodeError, LimitExceededError

GREY = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80)
COLOUR = np.zeros((96, 80, 3), dtype=np.uint8)


def j2k(pixels: np.ndarray, **options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, **{"codecformat": "j2k", **options}))


@pytest.mark.parametrize("container", ["j2k", "jp2"])
def test_jpeg_2000(container: str) -> None:
    found = codestream.read(j2k(GREY, codecformat=container, bitspersample=13, resolutions=4))
    assert (found.rows, found.columns, found.components, found.bits) == (96, 80, 1, 13)
    assert found.signed == (False,)
    assert found.levels == 3, "one less than resolutions"
    assert found.tile == (96, 80), "the whole image"
    assert found.subsampling == ((1, 1),)
    assert found.colour_transform is False


def test_jpeg_2000_with_tiles() -> None:
    out = BytesIO()
    Image.fromarray(COLOUR).save(out, "JPEG2000", tile_size=(48, 64), num_resolutions=3)
    found = codestream.read(out.getvalue())
    assert (found.rows, found.columns, found.tile, found.levels) == (96, 80, (64, 48), 2)


def test_jpeg_2000_of_signed_values_and_of_colour() -> None:
    assert codestream.read(j2k(GREY.astype(np.int16))).signed == (True,)
    mixed = codestream.read(j2k(COLOUR, mct=True, reversible=True))
    assert (mixed.components, mixed.signed) == (3, (False,) * 3)
    assert mixed.colour_transform is True
    assert codestream.read(j2k(COLOUR, mct=False, reversible=True)).colour_transform is False


def test_high_throughput_jpeg_2000() -> None:
    found = codestream.read(bytes(imagecodecs.htj2k_encode(GREY, resolutions=3, reversible=True)))
    assert (found.rows, found.columns, found.bits, found.levels) == (96, 80, 16, 3)


def test_the_component_with_fewest_levels_counts() -> None:
    """COC overrules COD for one component (ISO 15444-1 A.6.2)."""
    data = j2k(COLOUR, resolutions=4)
    at = data.index(b"\xff\x52")
    at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    component, style, levels = 1, 0, 2
    coc = struct.pack(">HHBBBBBBB", 0xFF53, 9, component, style, levels, 4, 4, 0, 1)
    assert codestream.read(data).levels == 3
    assert codestream.read(data[:at] + coc + data[at:]).levels == 2


def test_subsampled_components_are_seen() -> None:
    data = bytearray(j2k(COLOUR))
    data[42 + 3 + 1] = 2  # XRsiz of the second component
    assert codestream.read(bytes(data)).subsampling == ((1, 1), (1, 2), (1, 1))


def test_jpeg() -> None:
    found = codestream.read(imagecodecs.jpeg8_encode(COLOUR, subsampling="420"))
    assert (found.rows, found.columns, found.components, found.bits) == (96, 80, 3, 8)
    assert found.subsampling == ((2, 2), (1, 1), (1, 1))
    assert (found.lossless, found.levels, found.tile) == (False, None, None)
    deep = codestream.read(imagecodecs.jpeg8_encode(GREY, lossless=True, bitspersample=14))
    assert (deep.bits, deep.lossless) == (14, True)
    assert codestream.read(imagecodecs.jpegls_encode(GREY)).bits == 16


def test_the_adobe_marker() -> None:
    """Three samples: libjpeg writes the marker where it does not transform, JFIF where it does."""
    plain = imagecodecs.jpeg8_encode(COLOUR, colorspace="RGB", outcolorspace="RGB")
    assert codestream.read(plain).colour_transform is False
    assert codestream.read(imagecodecs.jpeg8_encode(COLOUR)).colour_transform is None
    marked = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" + imagecodecs.jpeg8_encode(COLOUR)[2:]
    assert codestream.read(marked).colour_transform is True


J2K = j2k(GREY)
JPEG = bytes(imagecodecs.jpeg8_encode(COLOUR))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not start"),
        (b"BM rubbish", "does not start"),
        (J2K[:30], "ends within"),
        (J2K[:50], "ends within"),
        (J2K[:40] + b"\0\0" + J2K[42:], "0 components"),
        (J2K[:40] + b"\x40\0" + J2K[42:], "16384 components"),
        (J2K[:8] + bytes(8) + b"\xff" * 8 + J2K[24:], "pixels"),
        (b"\0\0\0\x0cjP  rubbish", "no SIZ"),
        (b"\xff\xd8", "ends within"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8rubbish", "no marker"),
        (b"\xff\xd8\xff\xe0\0\0", "length 0"),
        (b"\xff\xd8\xff\xe0\xff\xff", "ends within"),
        (JPEG[:25], "ends within"),
    ],
)
def test_broken_headers(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        codestream.read(data)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    """Each scan of a progressive JPEG goes through the whole film."""
    out = BytesIO()
    Image.fromarray(COLOUR[..., 0]).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    codestream.check_scans(whole)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(LimitExceededError, match="scans"):
        codestream.check_scans(whole[:-2] + 500 * last + codestream.END)
