"""The greyscale pipeline against the standard's formulas and against pydicom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from support.tiny_film import film

from hilum import dicom
from hilum.dicom import Film
from hilum.dicom.decode import stored_values
from hilum.errors import InconsistentPixelsError
from hilum.settings import Limits

LIMITS = Limits()


def decoded(seed: int = 1, **attributes: Any) -> Film:
    return dicom.decode(dicom.open_object(film(seed, **attributes), LIMITS))


def stored(seed: int = 1, **attributes: Any) -> np.ndarray:
    return stored_values(dicom.open_object(film(seed, **attributes), LIMITS))


def lut(entries: list[int], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
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


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"VOILUTSequence": lut([1, 2, 3], 0, 40)},
    ],
)
def test_broken_tables_are_errors(attributes: dict[str, Any]) -> None:
    with pytest.raises(InconsistentPixelsError):
        decoded(**attributes)
