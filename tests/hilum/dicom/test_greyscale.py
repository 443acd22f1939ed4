"""The greyscale pipeline against the standard's formulas and against pydicom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.encodings import described, native
from support.tiny_film import film

from hilum import dicom
from hilum.dicom import Film, greyscale
from hilum.dicom.decode import stored_values
from hilum.errors import InconsistentPixelsError
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import make_input, model_input
from hilum.settings import Limits

LIMITS = Limits()


def decoded(seed: int = 1, **attributes: Any) -> Film:
    return dicom.decode(dicom.open_object(film(seed, **attributes), LIMITS))


def stored(seed: int = 1, **attributes: Any) -> np.ndarray:
    return stored_values(dicom.open_object(film(seed, **attributes), LIMITS))


def lut(entries: list[int], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.array(entries, dtype="<u2").tobytes()
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "OW"
    item.ModalityLUTType = "US"
    return Sequence([item])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1500, 700), (600.5, 33)])
def test_windows_equal_pydicom(function: str, centre: float, width: float) -> None:
    window = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    found = decoded(**window)
    ds = Dataset()
    ds.BitsStored, ds.PixelRepresentation = 12, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in window.items():
        setattr(ds, keyword, value)
    expected = apply_windowing(stored().astype(np.float64), ds) / 4095
    np.testing.assert_allclose(found.pixels, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("value", "shown"),
    # C.11.2.1.2.1 with centre 100, width 11: below 94.5 black, above 104.5 white.
    [(94, 0.0), (95, 0.05), (100, 0.55), (104, 0.95), (105, 1.0)],
)
def test_linear_by_hand(value: int, shown: float) -> None:
    pixels = np.full((4, 4), value, dtype="<u2").tobytes()
    found = decoded(rows=4, columns=4, PixelData=pixels, WindowCenter=100, WindowWidth=11)
    assert found.pixels[0, 0] == pytest.approx(shown, abs=1e-6)


def test_first_of_several_windows() -> None:
    several = decoded(WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    one = decoded(WindowCenter=1000, WindowWidth=500)
    assert np.array_equal(several.pixels, one.pixels)


def test_without_a_window_the_stored_range_counts_not_the_type() -> None:
    np.testing.assert_allclose(decoded().pixels, stored() / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", [{"VOILUTFunction": ["SIGMOID", "LINEAR"]}, {"PixelPaddingValue": [7, 7]}]
)
def test_the_first_of_several_values_where_one_should_be(attributes: dict[str, Any]) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    one = {keyword: values[0] for keyword, values in attributes.items()}
    several, single = (
        dicom.decode(dicom.open_object(film(1, **window, **said), Limits()))
        for said in (attributes, one)
    )
    assert np.array_equal(several.pixels, single.pixels)


def test_rescale_comes_before_the_window() -> None:
    found = decoded(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=2000, WindowWidth=4000)
    ds = Dataset()
    ds.RescaleSlope, ds.RescaleIntercept = 2, -1000
    ds.WindowCenter, ds.WindowWidth = 2000, 4000
    ds.BitsStored, ds.PixelRepresentation = 12, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    values = apply_modality_lut(stored().astype(np.float64), ds)
    expected = np.clip((values - (2000 - 0.5)) / 3999 + 0.5, 0, 1)
    np.testing.assert_allclose(found.pixels, expected, atol=1e-6)


def test_voi_lut_goes_before_the_window_and_is_that_of_pydicom() -> None:
    entries = [int(n) for n in np.linspace(0, 1, 1000) ** 2 * 1023]
    found = decoded(VOILUTSequence=lut(entries, 1500, 10), WindowCenter=10, WindowWidth=2)
    ds = Dataset()
    ds.VOILUTSequence = lut(entries, 1500, 10)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    expected = apply_voi(stored(), ds) / 1023
    np.testing.assert_allclose(found.pixels, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "top", "white"), [(8, 65280, 65535), (8, 255, 255), (10, 4095, 4095)]
)
def test_entries_above_the_bits_of_a_voi_lut_stay_in_range(bits: int, top: int, white: int) -> None:
    """Some writers scale 8-bit entries to words and still declare 8 bits."""
    entries = np.rint(np.linspace(0, top, 4096)).astype(int).tolist()
    found = decoded(VOILUTSequence=lut(entries, 0, bits))
    np.testing.assert_allclose(found.pixels, np.array(entries)[stored()] / white, atol=1e-6)
    assert found.pixels.max() <= 1


def test_modality_lut() -> None:
    entries = list(range(0, 4096 * 2, 2))
    found = decoded(
        ModalityLUTSequence=lut(entries, 0, 16),
        WindowCenter=4096,
        WindowWidth=8192,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(found.pixels, stored() * 2 / 8192, atol=1e-6)


def test_polarity_is_turned_exactly_once() -> None:
    plain = decoded(WindowCenter=2048, WindowWidth=4096).pixels
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    one = decoded(PhotometricInterpretation="MONOCHROME1", **window).pixels
    other = decoded(PresentationLUTShape="INVERSE", **window).pixels
    both = decoded(
        PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **window
    ).pixels
    for inverted in (one, other, both):
        np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)


def test_signed_values_with_fewer_bits_than_allocated() -> None:
    values = np.array([[-2048, -1], [0, 2047]], dtype=np.int16)
    # The bits above High Bit are not the sign's to fill: writers leave anything there.
    raw = (values.astype(np.uint16) & 0x0FFF) | 0xA000
    attributes = {"rows": 2, "columns": 2, "PixelData": raw.astype("<u2").tobytes()}
    found = stored(PixelRepresentation=1, **attributes)
    assert np.array_equal(found, values)
    shown = decoded(PixelRepresentation=1, **attributes)
    np.testing.assert_allclose(shown.pixels, (values + 2048) / 4095, atol=1e-6)


def test_high_bit_above_the_stored_bits() -> None:
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 250
    raw = ((values << 4) | 0x7).astype("<u2").tobytes()
    found = stored(rows=4, columns=4, PixelData=raw, HighBit=15)
    assert np.array_equal(found, values)


def test_padding_is_found_on_stored_values() -> None:
    values = np.array([[0, 3, 5], [6, 100, 4000]], dtype="<u2")
    shape = {"rows": 2, "columns": 3, "PixelData": values.tobytes()}
    one = decoded(PixelPaddingValue=3, RescaleSlope=1, RescaleIntercept=50, **shape)
    assert one.padding is not None
    assert one.padding.tolist() == [[False, True, False], [False, False, False]]
    several = decoded(PixelPaddingValue=0, PixelPaddingRangeLimit=5, **shape)
    assert several.padding is not None
    assert several.padding.tolist() == [[True, True, True], [False, False, False]]
    assert decoded(PixelPaddingValue=7, **shape).padding is None


# --- beyond 16 bits -----------------------------------------------------------------------


def deep(values: np.ndarray, **attributes: Any) -> Film:
    signed = values.dtype.kind == "i"
    module = {**described(values, bits=32, signed=signed), **attributes}
    data = native(values, ExplicitVRLittleEndian, **module)
    return dicom.decode(dicom.open_object(data, LIMITS))


@pytest.mark.parametrize("kind", ["u4", "i4"])
def test_32_bits_without_a_window_show_the_films_own_range(kind: str) -> None:
    values = np.arange(62 * 46).reshape(62, 46).astype(kind) * 3 + 1_000_000
    if kind == "i4":
        values -= 2_000_000
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(deep(values).pixels, expected, atol=1e-6)
    np.testing.assert_allclose(
        deep(values, PhotometricInterpretation="MONOCHROME1").pixels, 1 - expected, atol=1e-6
    )
    constant = deep(np.full((8, 8), 7, dtype=kind))
    assert (constant.pixels == 0).all()


def test_32_bits_take_the_same_steps_as_16() -> None:
    values = np.random.default_rng(2).integers(0, 4096, (130, 40), dtype=np.uint16)
    steps: list[dict[str, Any]] = [
        {"RescaleSlope": -2, "RescaleIntercept": 5000, "WindowCenter": 900, "WindowWidth": 3000},
        {"VOILUTSequence": lut([5, 80, 200, 255], 700, 8)},
        {"ModalityLUTSequence": lut(list(range(4096, 0, -1)), 0, 16), "WindowCenter": 2000,
         "WindowWidth": 900, "VOILUTFunction": "SIGMOID", "PixelPaddingValue": 9},
    ]  # fmt: skip
    for attributes in steps:
        shallow = native(values, ExplicitVRLittleEndian,
                         **described(values, bits=16), **attributes)  # fmt: skip
        expected = dicom.decode(dicom.open_object(shallow, LIMITS))
        found = deep(values.astype(np.uint32), **attributes)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.padding, expected.padding)


def test_padding_is_no_part_of_a_deep_films_range() -> None:
    values = np.arange(100, dtype=np.uint32).reshape(10, 10) + 5000
    values[0] = 0
    found = deep(values, PixelPaddingValue=0)
    assert found.padding is not None
    np.testing.assert_allclose(found.pixels[1:], (values[1:] - 5010) / 89, atol=1e-6)


# --- polarity, tables and padding as they come --------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),  # contradicts itself: the polarity of Type 1 counts
        ("MONOCHROME1", "NONSENSE", True),
    ],
)
def test_polarity(photometric: str, shape: str, inverted: bool) -> None:
    found = decoded(PhotometricInterpretation=photometric, PresentationLUTShape=shape).pixels
    plain = stored() / 4095
    np.testing.assert_allclose(found, 1 - plain if inverted else plain, atol=1e-6)


def test_only_the_window_decides_not_smallest_and_largest() -> None:
    wrong = decoded(SmallestImagePixelValue=900, LargestImagePixelValue=901)
    assert np.array_equal(wrong.pixels, decoded().pixels)


def test_first_of_several_voi_luts() -> None:
    one, other = lut([0, 100, 255], 1000, 8), lut([255, 0], 0, 8)
    several = decoded(VOILUTSequence=Sequence([*one, *other]))
    assert np.array_equal(several.pixels, decoded(VOILUTSequence=one).pixels)


def test_modality_lut_goes_before_rescale() -> None:
    table = lut(list(range(4096)), 0, 16)
    found = decoded(ModalityLUTSequence=table, RescaleSlope=7, RescaleIntercept=-9)
    np.testing.assert_allclose(found.pixels, stored() / 4095, atol=1e-6)


def test_without_a_window_the_rescaled_range_is_shown() -> None:
    found = decoded(RescaleSlope=-3, RescaleIntercept=17)
    np.testing.assert_allclose(found.pixels, 1 - stored() / 4095, atol=1e-6)


def test_8_bit_entries_packed_in_words() -> None:
    table = lut(list(range(256)), 1000, 8)
    table[0]["LUTData"].value = bytes(range(256))
    plain = decoded(VOILUTSequence=lut(list(range(256)), 1000, 8)).pixels
    assert len(np.unique(plain)) > 50
    assert np.array_equal(decoded(VOILUTSequence=table).pixels, plain)


def test_zero_entries_stand_for_65536() -> None:
    table = lut(list(range(65536)), 0, 16)
    assert table[0].LUTDescriptor[0] == 0
    np.testing.assert_allclose(decoded(VOILUTSequence=table).pixels, stored() / 65535, atol=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_tables_in_other_syntaxes(syntax: str) -> None:
    entries = [0, 300, 500, 1023]
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    table = lut(entries, 1000, 10)
    table[0]["LUTData"].value = np.array(entries, dtype=order).tobytes()
    values = stored()
    data = native(values, syntax, **described(values, bits=12), VOILUTSequence=table)
    found = dicom.decode(dicom.open_object(data, LIMITS)).pixels
    assert np.array_equal(found, decoded(VOILUTSequence=lut(entries, 1000, 10)).pixels)


def test_the_first_input_is_negative_only_where_inputs_can_be() -> None:
    """65036 is -500 for values below zero, and 65036 for a film of 16 unsigned bits — also if
    a Rescale of 1 and 0 stands beside it."""
    entries = list(range(0, 1001))
    signed = np.arange(-500, 500, dtype=np.int16).reshape(25, 40)
    unsigned = (signed.astype(np.int32) + 65036).astype(np.uint16)
    for values, extra in [
        (signed, {}),
        (unsigned, {}),
        (unsigned, {"RescaleSlope": 1, "RescaleIntercept": 0}),
    ]:
        first = -500 if values is signed else 65036
        table = lut(entries, 0, 10)
        table[0]["LUTDescriptor"].VR = "SS" if values is signed else "US"
        table[0]["LUTDescriptor"].value = [1001, first, 10]
        data = native(values, ExplicitVRLittleEndian, VOILUTSequence=table, **extra,
                      **described(values, bits=16, signed=values is signed))  # fmt: skip
        found = dicom.decode(dicom.open_object(data, LIMITS)).pixels
        expected = np.clip(values.astype(int) - first, 0, 1000) / 1023
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (-2000, -1990), (-1990, -2000)])
def test_padding_of_signed_films(value: int, limit: int | None) -> None:
    values = np.array([[-2000, -1995, -1990], [-1989, 0, 2047]], dtype=np.int16)
    attributes: dict[str, Any] = {"PixelPaddingValue": value}
    if limit is not None:
        attributes["PixelPaddingRangeLimit"] = limit
    data = native(values, ExplicitVRLittleEndian, **attributes,
                  **described(values, bits=12, signed=True))  # fmt: skip
    found = dicom.decode(dicom.open_object(data, LIMITS)).padding
    low, high = min(value, limit or value), max(value, limit or value)
    assert found is not None
    assert np.array_equal(found, (values >= low) & (values <= high))


def test_a_padding_value_of_the_wrong_representation() -> None:
    """63536 as US where the pixels are signed is -2000."""
    values = np.array([[-2000, 1], [2, 3]], dtype=np.int16)
    data = native(values, ExplicitVRLittleEndian, **described(values, bits=16, signed=True))
    element = b"\x28\x00\x20\x01US\x02\x00" + (63536).to_bytes(2, "little")
    at = data.index(b"\xe0\x7f\x10\x00", 200)
    found = dicom.decode(dicom.open_object(data[:at] + element + data[at:], LIMITS)).padding
    assert found is not None
    assert found.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
    ],
)
def test_broken_tables_are_errors(attributes: dict[str, Any]) -> None:
    with pytest.raises(InconsistentPixelsError):
        decoded(**attributes)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
def test_values_beyond_bits_stored_are_black_or_white(signed: bool, dtype: str) -> None:
    """No decoder should give any; if one did, it would be no reason to fail."""
    found = dicom.open_object(film(1, BitsStored=7, HighBit=6, PixelRepresentation=signed), LIMITS)
    low, high = greyscale.stored_range(found.header)
    info = np.iinfo(dtype)
    values = np.array([[info.min, max(low, info.min), high, info.max]], dtype=dtype)
    shown = greyscale.present(values, found.header, greyscale.PLAIN).whole()
    black = (0 - low) / (high - low) if info.min == 0 else 0
    np.testing.assert_allclose(shown, [[black, black, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (8, True), (10, False), (12, True), (16, False), (16, True)]
)
def test_rows_are_those_of_the_whole(bits: int, signed: bool, padded: bool) -> None:
    """A table of all stored values, looked up at once, and the input made from it."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    random = np.random.default_rng(bits)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    values = random.integers(low, high + 1, (150, 130)).astype(kind)
    values[40:60, :30] = low + 3
    extra: dict[str, Any] = {"PixelPaddingValue": low + 3} if padded else {}
    window = {"WindowCenter": (low + high) // 2, "WindowWidth": (high - low) // 2}
    slope = {"RescaleSlope": 3, "RescaleIntercept": -7, "PhotometricInterpretation": "MONOCHROME1"}
    for attributes in ({}, window, {**slope, "VOILUTFunction": "SIGMOID", **window}):
        data = native(values, ExplicitVRLittleEndian, **extra, **attributes,
                      **described(values, bits=bits, signed=signed))  # fmt: skip
        opened = dicom.open_object(data, LIMITS)
        found, rows = dicom.decode(opened), dicom.decode_rows(opened)
        every = np.arange(low, high + 1).astype(kind).reshape(1, -1)
        table = greyscale.present(every, opened.header, opened.greyscale).whole()[0]
        assert np.array_equal(found.pixels, table[values.astype(int) - low])
        assert (rows.padding is not None) == padded
        for size in (32, 100, 130):
            spec = PreprocessSpec(size=size)
            made = make_input(found.pixels, spec, padding=found.padding).image
            assert np.array_equal(model_input(opened, spec).image, made)
