"""Colour captures: grey ones are read, coloured ones are not, and no colour space is confused."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from support.colour_cases import GREY, captures, colour, halved, palette, rgb, ybr
from support.encodings import described, encoded, native
from support.tiny_film import film

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.errors import HilumError
from hilum.packages.manifest import InputPolicy
from hilum.pipeline import admit
from hilum.settings import Limits


def shown(data: bytes) -> np.ndarray:
    return dicom.decode(dicom.open_object(data, Limits())).pixels


def refused(data: bytes) -> str:
    with pytest.raises(HilumError) as caught:
        shown(data)
    return caught.value.code


def tinted(share: float, levels: int) -> np.ndarray:
    """Grey RGB, with red raised by ``levels`` in ``share`` of the pixels."""
    pixels = rgb(np.full((100, 100), 90, np.uint8))
    pixels.reshape(-1, 3)[: round(share * 10_000), 0] += levels
    return pixels


def as_dicom(pixels: np.ndarray) -> bytes:
    rows, columns = pixels.shape[:2]
    return native(pixels, ExplicitVRLittleEndian, **{**colour(), "rows": rows, "columns": columns})


def test_a_capture_is_flagged_before_anything_is_decoded() -> None:
    for case in captures():
        header = dicom.open_object(case.data, Limits()).header
        assert admit.check(header, InputPolicy()) == ("colour_capture",), case


def test_what_lossy_compression_leaves_is_still_grey() -> None:
    # One channel raised by 9 of 255 everywhere; or by a lot, but hardly anywhere.
    np.testing.assert_allclose(shown(as_dicom(tinted(1, 9))), (90 + 9 * 0.299) / 255, atol=1e-6)
    assert shown(as_dicom(tinted(0.001, 120))).shape == (100, 100)


def test_colours_are_refused() -> None:
    assert refused(as_dicom(tinted(1, 12))) == "dicom.coloured_pixels"
    assert refused(as_dicom(tinted(0.002, 120))) == "dicom.coloured_pixels"
    for name in ("examples_rgb_color.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm"):
        data = Path(str(get_testdata_file(name, download=False))).read_bytes()
        assert refused(data) == "dicom.coloured_pixels", name


def test_a_confused_colour_space_does_not_pass() -> None:
    """RGB that says it is YBR_FULL, and the other way round."""
    plain = native(rgb(GREY), ExplicitVRLittleEndian,
                   **colour(PhotometricInterpretation="YBR_FULL"))  # fmt: skip
    assert refused(plain) == "dicom.coloured_pixels"
    assert refused(native(ybr(GREY), ExplicitVRLittleEndian, **colour())) == "dicom.coloured_pixels"


def test_a_coloured_ybr_is_refused() -> None:
    pixels = ybr(GREY)
    pixels[:10, :, 2] += 20
    data = native(pixels, ExplicitVRLittleEndian, **colour(PhotometricInterpretation="YBR_FULL"))
    assert refused(data) == "dicom.coloured_pixels"


def test_the_greyscale_pipeline_has_no_say_over_colour() -> None:
    window = {"WindowCenter": 10, "WindowWidth": 5, "PresentationLUTShape": "INVERSE",
              "RescaleSlope": 0, "RescaleIntercept": 3}  # fmt: skip
    data = native(rgb(GREY), ExplicitVRLittleEndian, **colour(), **window)
    np.testing.assert_allclose(shown(data), GREY / 255, atol=1e-6)


def test_the_codestream_decides_whether_it_was_transformed() -> None:
    """A header that still says RGB over JPEG 2000 whose COD says the components were mixed."""
    frame = imagecodecs.jpeg2k_encode(
        rgb(GREY), level=0, codecformat="j2k", reversible=True, mct=True
    )
    for photometric in ("RGB", "YBR_FULL", "YBR_RCT"):
        data = encoded(frame, JPEG2000Lossless, **colour(PhotometricInterpretation=photometric))
        np.testing.assert_allclose(shown(data), GREY / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (native(rgb(GREY), ExplicitVRLittleEndian, **colour(PixelRepresentation=1)),
         "dicom.inconsistent_pixels"),
        (native(rgb(GREY), ExplicitVRLittleEndian,
                **colour(PhotometricInterpretation="YBR_PARTIAL_422")),
         "dicom.unsupported_pixels"),
        *[(encoded(imagecodecs.jpeg8_encode(rgb(GREY)), JPEGBaseline8Bit,
                   **colour(PhotometricInterpretation=partial)),
           "dicom.unsupported_pixels") for partial in ("YBR_PARTIAL_420", "YBR_PARTIAL_422")],
        (native(halved(GREY)[:, :-1], ExplicitVRLittleEndian,
                **{**colour(PhotometricInterpretation="YBR_FULL_422"), "columns": 45}),
         "dicom.inconsistent_pixels"),
        (encoded(imagecodecs.jpeg8_encode(GREY), JPEGBaseline8Bit, **colour()),
         "dicom.inconsistent_pixels"),
        (encoded(imagecodecs.jpeg8_encode(rgb(GREY)), JPEGBaseline8Bit,
                 **described(GREY, bits=8)),
         "dicom.inconsistent_pixels"),
        (native(rgb(GREY)[:-1], ExplicitVRLittleEndian, **colour()), "dicom.truncated"),
    ],
)  # fmt: skip
def test_contradictions(data: bytes, code: str) -> None:
    assert refused(data) == code


# --- palettes -----------------------------------------------------------------------------


def with_tables(syntax: str = ExplicitVRLittleEndian, **tables: object) -> bytes:
    return native(GREY, syntax, **described(GREY, bits=8), **tables)


def segments(bits: int, *, little_endian: bool = True) -> dict[str, object]:
    """Discrete, linear, indirect (a copy of both), and a line to the end: 256 entries."""
    top = (1 << bits) - 1
    parts = [0, 2, 0, top // 4, 1, 60, top // 2]
    size = 1 if bits == 8 else 2
    if bits == 8:
        parts += [2, 2, 0, 0, 0, 0]
    else:
        parts += [2, 2, 0, 0]
    parts += [1, 132, top]
    code = "B" if size == 1 else "H"
    data = struct.pack(f"{'<' if little_endian else '>'}{len(parts)}{code}", *parts)
    made = palette(bits)
    for name in ("Red", "Green", "Blue"):
        del made[f"{name}PaletteColorLookupTableData"]
        made[f"Segmented{name}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    return made


@pytest.mark.parametrize("bits", [8, 16])
def test_segmented_palettes_are_those_of_pydicom(bits: int) -> None:
    data = with_tables(**segments(bits))
    opened = dicom.open_object(data, Limits())
    expected = apply_color_lut(GREY, pydicom.dcmread(BytesIO(data)))
    assert opened.palette is not None
    assert np.array_equal(opened.palette.apply(stored_values(opened)), expected)
    assert len(np.unique(expected)) > 50


def test_palettes_of_a_big_endian_file() -> None:
    tables = palette(16)
    for name in ("Red", "Green", "Blue"):
        keyword = f"{name}PaletteColorLookupTableData"
        tables[keyword] = np.frombuffer(tables[keyword], "<u2").astype(">u2").tobytes()
    found = shown(with_tables(ExplicitVRBigEndian, **tables))
    np.testing.assert_allclose(found, (255 - GREY) / 255, atol=1e-6)
    # 8-bit entries in words: each pair is swapped (PS3.5 section 7.3).
    tables = palette(8)
    for name in ("Red", "Green", "Blue"):
        keyword = f"{name}PaletteColorLookupTableData"
        tables[keyword] = np.frombuffer(tables[keyword], ">u2").astype("<u2").tobytes()
    found = shown(with_tables(ExplicitVRBigEndian, **tables))
    np.testing.assert_allclose(found, (255 - GREY) / 255, atol=1e-6)


def test_values_before_and_after_the_palette() -> None:
    found = shown(with_tables(ImplicitVRLittleEndian, **palette(8, first=100)))
    expected = np.clip(255 - (GREY.astype(int) - 100), 0, 255) / 255
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_signed_first_entry() -> None:
    values = (GREY.astype(int) - 128).astype(np.int8)
    module = described(values, bits=8, signed=True)
    data = native(values, ExplicitVRLittleEndian, **module, **palette(8, first=-128))
    np.testing.assert_allclose(shown(data), (255 - GREY) / 255, atol=1e-6)


def test_eight_bits_declared_and_sixteen_given() -> None:
    """Entries scaled to words under a descriptor that still says 8."""
    tables = palette(16)
    for name in ("Red", "Green", "Blue"):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
    np.testing.assert_allclose(shown(with_tables(**tables)), (255 - GREY) / 255, atol=1e-6)


def broken(**changes: object) -> bytes:
    tables = palette(8)
    for keyword, value in changes.items():
        if value is None:
            del tables[keyword]
        else:
            tables[keyword] = value
    return with_tables(**tables)


def endless() -> bytes:
    """Indirect segments that name each other would never end."""
    tables = segments(16)
    for name in ("Red", "Green", "Blue"):
        words = [0, 0] + [2, 65535, 0, 0] * 5000
        tables[f"Segmented{name}PaletteColorLookupTableData"] = struct.pack(
            f"<{len(words)}H", *words
        )
    return with_tables(**tables)


@pytest.mark.parametrize(
    "data",
    [
        broken(RedPaletteColorLookupTableDescriptor=None),
        broken(GreenPaletteColorLookupTableData=None),
        broken(BluePaletteColorLookupTableData=bytes(100)),
        broken(RedPaletteColorLookupTableDescriptor=[256, 0, 40]),
        broken(RedPaletteColorLookupTableDescriptor=[256, 1, 8]),
        with_tables(**{
            keyword: b"\1\0\5\0" if "Segmented" in keyword else value
            for keyword, value in segments(16).items()
        }),
        with_tables(**{
            keyword: value[:8] if "Segmented" in keyword else value
            for keyword, value in segments(16).items()
        }),
        endless(),
    ],
)  # fmt: skip
def test_broken_palettes(data: bytes) -> None:
    assert refused(data) == "dicom.inconsistent_pixels"


def test_a_grey_film_has_no_flag() -> None:
    assert dicom.open_object(film(1), Limits()).header.flags == ()
