"""Less is decoded, and the model sees the same film: in the same place, with the same grey."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy import ndimage
from support.tiny_film import film

from benchmarks import films
from hilum import dicom
from hilum.dicom import reduced
from hilum.dicom.decode import stored_values
from hilum.dicom.reduced import Samples, block_means
from hilum.errors import HilumError
from hilum.imaging import rendering
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Extent, make_input, model_input, resize
from hilum.settings import Limits

LIMITS = Limits()
EXACT = PreprocessSpec(size=64)
REDUCED = PreprocessSpec(size=64, decode="reduced")
# Odd on purpose: sizes at every level are rounded.
ROWS, COLUMNS = 701, 523


def _grey(bits: int, *, signed: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
    """A film with structure at every scale."""
    rng = np.random.default_rng(4)
    picture = sum(
        ndimage.zoom(rng.random((2**n, 2**n)), (ROWS / 2**n, COLUMNS / 2**n), order=1) / 1.7**n
        for n in range(2, 9)
    )
    picture = (picture - picture.min()) / np.ptp(picture)
    values = np.rint(picture * (2**bits - 1))
    if signed:
        return (values - 2 ** (bits - 1)).astype(np.int16)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def _object(values: np.ndarray[Any, np.dtype[Any]], syntax: str, **more: Any) -> bytes:
    """``values`` as a DICOM film in ``syntax``; ``frame``: what stands in it, if not its own."""
    bits = more.pop("bits", 8 if values.dtype.itemsize == 1 else 12)
    frame = more.pop("frame", None)
    width = 8 * values.dtype.itemsize
    attributes = {
        "BitsAllocated": width,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
    }
    data = film(1, rows=8, columns=8, **{**attributes, **more})
    ds = pydicom.dcmread(BytesIO(data))
    ds.Rows, ds.Columns = values.shape
    if syntax == ExplicitVRLittleEndian:
        ds.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    elif syntax == RLELossless:
        ds.PixelData = values.tobytes()
        ds.compress(RLELossless, values, generate_instance_uid=False)
    else:
        ds.PixelData = encapsulate([frame or _frame(values, syntax, bits)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    ds.save_as(out)
    return out.getvalue()


def _frame(values: np.ndarray[Any, np.dtype[Any]], syntax: str, bits: int) -> bytes:
    encoders = {
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(
            values, level=0, codecformat="j2k", bitspersample=bits
        ),
        HTJ2KLossless: lambda: films.htj2k(values, bits),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(values),
        JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(
            values, lossless=True, bitspersample=bits
        ),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(values, level=98),
    }
    return bytes(encoders[syntax]())


def _jpeg(values: np.ndarray[Any, np.dtype[Any]], **how: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, **how))


def _harsh(bits: int, *, signed: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
    """A film of so much contrast that a lossy decoder overshoots both ends of its range."""
    values = _grey(bits, signed=signed)
    low, high = int(values.min()), int(values.max())
    middle = (low + high + 1) // 2
    spread = np.clip((values.astype(int) - middle) * 4 + middle, low, high)
    return np.asarray(spread.astype(values.dtype))


def _overshooting() -> bytes:
    """The film of 12 bits with a sign, in a lossy codestream that says 16 and leaves the 12."""
    frame = imagecodecs.jpeg2k_encode(
        _harsh(12, signed=True), level=45, codecformat="j2k", reversible=False
    )
    decoded = imagecodecs.jpeg2k_decode(frame)
    assert decoded.min() < -2200
    assert decoded.max() > 2200
    return bytes(frame)


CASES = [
    pytest.param(_grey(12), ExplicitVRLittleEndian, {}, id="native 12 bit"),
    pytest.param(_grey(8), ExplicitVRLittleEndian, {}, id="native 8 bit"),
    pytest.param(_grey(12, signed=True), ExplicitVRLittleEndian, {}, id="native signed"),
    pytest.param(_grey(12), RLELossless, {}, id="RLE"),
    pytest.param(_grey(12), JPEGLSLossless, {}, id="JPEG-LS"),
    pytest.param(_grey(12), JPEGLosslessSV1, {}, id="JPEG lossless"),
    pytest.param(_grey(8), JPEGBaseline8Bit, {}, id="JPEG baseline"),
    pytest.param(_grey(12), JPEG2000Lossless, {}, id="JPEG 2000 12 bit"),
    pytest.param(_grey(8), JPEG2000Lossless, {}, id="JPEG 2000 8 bit"),
    pytest.param(_grey(15), JPEG2000Lossless, {"bits": 15}, id="JPEG 2000 15 bit"),
    pytest.param(_grey(16), JPEG2000Lossless, {"bits": 16}, id="JPEG 2000 16 bit"),
    pytest.param(_grey(12, signed=True), JPEG2000Lossless, {}, id="JPEG 2000 signed"),
    pytest.param(
        _grey(12), JPEG2000Lossless, {"PhotometricInterpretation": "MONOCHROME1"}, id="inverted"
    ),
    pytest.param(
        _grey(12), JPEG2000Lossless, {"WindowCenter": 1800, "WindowWidth": 1500}, id="windowed"
    ),
    pytest.param(_grey(12), HTJ2KLossless, {}, id="HTJ2K"),
    # Legal, and nothing that a part of the coefficients would give the stored values of.
    pytest.param(
        _grey(8, signed=True).astype(np.int8),
        JPEGBaseline8Bit,
        {"frame": _jpeg(_grey(8, signed=True).astype(np.int8).view(np.uint8), level=98)},
        id="JPEG baseline signed",
    ),
    pytest.param(
        _harsh(7),
        JPEGBaseline8Bit,
        {"bits": 7, "frame": _jpeg(_harsh(7), level=40)},
        id="JPEG baseline, 7 bits stored",
    ),
    pytest.param(
        _harsh(12, signed=True),
        JPEG2000,
        {"frame": _overshooting()},
        id="JPEG 2000 signed, overshoots",
    ),
    pytest.param(
        _grey(12),
        JPEGBaseline8Bit,
        {"frame": _jpeg(_grey(12), level=98, bitspersample=12)},
        id="JPEG extended called baseline",
    ),
    pytest.param(
        _grey(12),
        JPEGBaseline8Bit,
        {"frame": _jpeg(_grey(12), lossless=True, bitspersample=12)},
        id="JPEG lossless called baseline",
    ),
]


@pytest.mark.parametrize(("values", "syntax", "more"), CASES)
def test_the_model_sees_the_same_film(
    values: np.ndarray[Any, np.dtype[Any]], syntax: str, more: dict[str, Any]
) -> None:
    opened = dicom.open_object(_object(values, syntax, **more), LIMITS)
    whole = dicom.decode(opened)
    assert whole.pixels.shape == (ROWS, COLUMNS)
    less = dicom.decode(opened, side=128)
    assert 0.8 * 128 <= max(less.pixels.shape) < ROWS, "less than everything, but enough"
    exact, approximate = model_input(opened, EXACT), model_input(opened, REDUCED)
    assert exact.placement == approximate.placement
    difference = np.abs(exact.image.astype(int) - approximate.image)
    # Half a reduced pixel aside it would be 2 and more, see the next test.
    assert difference.mean() < 0.6
    assert np.quantile(difference, 0.99) <= 4


@pytest.mark.parametrize(
    ("bits", "syntax", "kind", "step"),
    [
        (12, JPEG2000Lossless, "5/3", 4),
        (12, HTJ2KLossless, "5/3", 4),
        (8, JPEGBaseline8Bit, "means", 4),
        (12, JPEGLSLossless, "means", 6),
    ],
)
def test_what_is_left_undecoded(bits: int, syntax: str, kind: str, step: int) -> None:
    """The quick ways are taken: means of a film decoded whole have step 6 here."""
    opened = dicom.open_object(_object(_grey(bits), syntax), LIMITS)
    box = reduced.stored_values(opened, side=128).box
    assert box == Samples(kind=kind, step=step, rows=ROWS, columns=COLUMNS)


def test_an_overlay_of_a_signed_baseline_jpeg() -> None:
    values = _grey(8, signed=True).astype(np.int8)
    frame = _jpeg(values.view(np.uint8), level=98)
    data = _object(values, JPEGBaseline8Bit, frame=frame)
    shown = rendering.preview(dicom.open_object(data, LIMITS), 128)
    whole = dicom.decode(dicom.open_object(data, LIMITS))
    expected = resize(whole.pixels, whole.box, shown.shape[::-1])
    assert np.abs(shown - expected).mean() < 0.01
    heat = rendering.Heat(grid=np.zeros((4, 4), np.float32), probability=0.5, input_size=64)
    look = rendering.Look(max_side=128, caption=None)
    assert rendering.draw(data, heat, look, LIMITS).startswith(b"\x89PNG")


def test_alignment_is_what_makes_it_so() -> None:
    """The tolerance above would notice a film that slid by half a reduced pixel."""
    opened = dicom.open_object(_object(_grey(12), JPEG2000Lossless), LIMITS)
    less = dicom.decode(opened, side=128)
    height, width = less.pixels.shape
    slid = Extent(rows=ROWS, columns=COLUMNS, box=(0.0, 0.0, float(width), float(height)))
    wrong = make_input(less.pixels, EXACT, extent=slid).image.astype(int)
    assert np.abs(wrong - model_input(opened, EXACT).image).mean() > 1.2


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEG2000Lossless, HTJ2KLossless]
)
@pytest.mark.parametrize("at", [(100, 60), (351, 261), (640, 470)])
def test_a_spot_stays_where_it_is(syntax: str, at: tuple[int, int]) -> None:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    spot = 230 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * 12.0**2))
    opened = dicom.open_object(_object(np.rint(spot).astype(np.uint8), syntax), LIMITS)
    less = dicom.decode(opened, side=128)
    assert isinstance(less.box, Samples)
    weight = np.clip(resize(less.pixels, less.box, (COLUMNS // 4, ROWS // 4)) - 0.02, 0, None)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    found_y = (rows * weight).sum() / weight.sum() / weight.shape[0] * ROWS
    found_x = (columns * weight).sum() / weight.sum() / weight.shape[1] * COLUMNS
    assert found_y == pytest.approx(at[0] + 0.5, abs=0.15), "in pixels of the whole film"
    assert found_x == pytest.approx(at[1] + 0.5, abs=0.15)


def test_block_means() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)
    means = block_means(values, 4)
    completed = np.pad(values, ((0, 3), (0, 3)), mode="edge").astype(np.float64)
    expected = completed.reshape(4, 4, 5, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    assert np.array_equal(block_means(values, 1), values)
    signed = np.full((4, 4), -32768, dtype=np.int16)
    assert block_means(signed, 4) == -32768
    wide = np.full((8, 8), 2**31 - 1, dtype=np.uint32)
    np.testing.assert_allclose(block_means(wide, 8), 2.0**31, rtol=1e-6)


def _stored(opened: dicom.DicomObject) -> tuple[np.ndarray[Any, np.dtype[Any]], reduced.Reduced]:
    return stored_values(opened), reduced.stored_values(opened, side=128)


def test_a_flat_pyramid_is_decoded_whole() -> None:
    values = _grey(12)
    frame = imagecodecs.jpeg2k_encode(
        values, level=0, codecformat="j2k", bitspersample=12, resolutions=1
    )
    data = _object(values, JPEG2000Lossless)
    ds = pydicom.dcmread(BytesIO(data))
    ds.PixelData = encapsulate([bytes(frame)])
    out = BytesIO()
    ds.save_as(out)
    whole, less = _stored(dicom.open_object(out.getvalue(), LIMITS))
    np.testing.assert_array_equal(less.values, block_means(whole, 6))


@pytest.mark.parametrize("every", [1, 40])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
def test_bits_above_the_stored_ones_are_not_grey(syntax: str, every: int) -> None:
    """An overlay in bit 12 of 16 would shine through a low-pass, thin lines as grey."""
    values = _grey(12) // 2
    values[:, ::every] |= np.uint16(1 << 12)
    opened = dicom.open_object(_object(values, syntax, bits=16, BitsStored=12, HighBit=11), LIMITS)
    whole, less = _stored(opened)
    assert whole.max() < 4096
    np.testing.assert_array_equal(less.values, block_means(whole, 6))


@pytest.mark.parametrize("shape", [(1, 1603), (1603, 3), (40, 1603)])
def test_a_strip(shape: tuple[int, int]) -> None:
    """Its short side is no size to ask a decoder for, and says little of how much it left out."""
    values = np.full(shape, 90, dtype=np.uint8)
    whole, less = _stored(dicom.open_object(_object(values, JPEGBaseline8Bit), LIMITS))
    rows, columns = shape
    step = less.box.step if isinstance(less.box, Samples) else 1
    assert less.values.shape == (-(-rows // step), -(-columns // step))
    np.testing.assert_allclose(less.values, whole.mean(), atol=1)


@pytest.mark.parametrize("value", [0, 4095])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless])
def test_declared_padding_is_no_part_of_a_mean(syntax: str, value: int) -> None:
    values = np.clip(_grey(12), 700, 3000)
    values[:130], values[:, 401:] = value, value
    values[300:340, 100:140] = value
    opened = dicom.open_object(_object(values, syntax, PixelPaddingValue=value), LIMITS)
    whole, less = dicom.decode(opened), dicom.decode(opened, side=128)
    assert less.box == Samples(kind="means", step=6, rows=ROWS, columns=COLUMNS)
    assert less.padding is not None
    assert less.padding.shape == less.pixels.shape
    assert less.pixels[~less.padding].min() > 699 / 4095, "nothing of it is in what is image"
    assert less.pixels[~less.padding].max() < 3001 / 4095
    assert whole.padding is not None
    assert abs(less.padding.mean() - whole.padding.mean()) < 0.01
    exact, approximate = model_input(opened, EXACT), model_input(opened, REDUCED)
    difference = np.abs(exact.image.astype(int) - approximate.image)
    assert difference.mean() < 0.6
    assert ((exact.image == 0) != (approximate.image == 0)).mean() < 0.01


def test_a_film_thinner_than_a_block() -> None:
    values = np.zeros((ROWS, COLUMNS), np.uint16)
    values[:, 7] = 900
    data = _object(values, ExplicitVRLittleEndian, PixelPaddingValue=0)
    less = dicom.decode(dicom.open_object(data, LIMITS), side=128)
    assert less.padding is not None
    assert (~less.padding).any()
    np.testing.assert_allclose(less.pixels[~less.padding], 900 / 4095, atol=1e-4)


def test_padding_that_is_only_declared() -> None:
    """No pixel has its value: the film is as it is without."""
    values = np.clip(_grey(12), 1, 4095)
    plain, declared = (
        dicom.decode(dicom.open_object(_object(values, ExplicitVRLittleEndian, **more), LIMITS),
                     side=128)
        for more in ({}, {"PixelPaddingValue": 0})
    )  # fmt: skip
    assert declared.padding is None
    np.testing.assert_array_equal(declared.pixels, plain.pixels)


def test_a_small_film_is_decoded_exactly() -> None:
    data = film(3)
    one = model_input(dicom.open_object(data, LIMITS), EXACT)
    other = model_input(dicom.open_object(data, LIMITS), REDUCED)
    assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless, JPEGBaseline8Bit])
def test_what_is_cut_short_or_damaged_ends_as_it_does_in_full(syntax: str) -> None:
    """Never a film that passes because only its undamaged part was looked at."""
    values = _grey(8)
    frame = _frame(values, syntax, 8)
    for broken in (frame[: len(frame) // 3], frame[:60], frame[:40] + b"\xff" * 400):
        ds = pydicom.dcmread(BytesIO(_object(values, syntax)))
        ds.PixelData = encapsulate([broken])
        out = BytesIO()
        ds.save_as(out)
        opened = dicom.open_object(out.getvalue(), LIMITS)
        if _code(opened, side=128) is None:
            assert _code(opened, side=None) is None


def _code(opened: dicom.DicomObject, *, side: int | None) -> str | None:
    try:
        dicom.decode(opened, side=side)
    except HilumError as error:
        return error.code
    return None


@pytest.mark.parametrize("side", [224, 299, 512])
def test_a_real_film(side: int) -> None:
    """RG1, JPEG 2000 lossless against the same film uncompressed and decoded whole."""
    found = [
        dicom.open_object(Path(str(get_testdata_file(name))).read_bytes(), LIMITS)
        for name in ("RG1_J2KR.dcm", "RG1_UNCR.dcm")
    ]
    exact = model_input(found[1], PreprocessSpec(size=side)).image.astype(float)
    for opened in found:
        less = model_input(opened, PreprocessSpec(size=side, decode="reduced")).image
        difference = np.abs(exact - less) / 255
        assert difference.mean() < 0.002
        assert np.quantile(difference, 0.99) < 0.012
