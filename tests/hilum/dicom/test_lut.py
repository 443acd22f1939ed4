"""Lookup tables whose descriptor and data may contradict each other: read right, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.encodings import described, native

from hilum import dicom
from hilum.dicom import Film
from hilum.errors import HilumError, InconsistentPixelsError
from hilum.settings import Limits

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
DEPTHS = [(8, 8), (8, 16), (10, 8), (12, 12), (16, 16)]
COLOURS = ("Red", "Green", "Blue")


def pixels(bits: int) -> np.ndarray:
    """``[62, 46]``, from 0 to the largest value of ``bits`` bits."""
    top = (1 << bits) - 1
    return np.rint(np.linspace(0, top, 62 * 46)).astype("u1" if bits <= 8 else "u2").reshape(62, 46)


def curve(count: int, bits: int) -> np.ndarray:
    """``count`` entries from 0 to the largest of ``bits`` bits, bent as VOI LUTs are."""
    return np.rint(np.linspace(0, 1, count) ** 1.5 * ((1 << bits) - 1)).astype(np.uint16)


def data(entries: np.ndarray, syntax: str, *, vr: str, packed: bool) -> Any:
    words = np.asarray(entries, np.uint16)
    if packed:
        raw = words.astype(np.uint8).tobytes()
        words = np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2")
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    return words.tolist() if vr == "US" else words.astype(order).tobytes()


def table(descriptor: list[int], value: Any, vr: str, first: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", first, descriptor)
    item.add_new("LUTData", vr, value)
    return Sequence([item])


def shown(values: np.ndarray, syntax: str, bits: int, **attributes: Any) -> Film:
    raw = native(values, syntax, **described(values, bits=bits), **attributes)
    return dicom.decode(dicom.open_object(raw, Limits()))


def spread(kind: str, descriptor: list[int], value: Any, vr: str) -> dict[str, Any]:
    """The attributes of a film with that table."""
    if kind != "palette":
        return {f"{kind}LUTSequence": table(descriptor, value, vr)}
    found: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in COLOURS:
        found[f"{colour}PaletteColorLookupTableDescriptor"] = descriptor
        # pydicom writes palettes as OW alone.
        order = np.asarray(value, "<u2").tobytes() if vr == "US" else value
        found[f"{colour}PaletteColorLookupTableData"] = order
    return found


def expected(kind: str, entries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture, if the last entry stands for those that are missing."""
    found = entries[np.minimum(values, len(entries) - 1)].astype(float)
    if kind == "Modality":  # without a window, from the smallest to the largest value
        return found / entries.max()
    return found / ((1 << int(entries.max()).bit_length()) - 1)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("VOI", ImplicitVRLittleEndian),
        ("VOI", ExplicitVRBigEndian),
        ("Modality", ExplicitVRLittleEndian),
        ("palette", ExplicitVRBigEndian),
    ],
)
def test_right_pixels_or_a_refusal(kind: str, syntax: str) -> None:
    """One declaring element at a time is changed."""
    random = np.random.default_rng(SYNTAXES.index(syntax))
    right = 0
    for inputs, bits in DEPTHS:
        values, whole = pixels(inputs), curve(1 << inputs, bits)
        for vr, packed in [("OW", False), ("US", False), ("OW", True), ("US", True)]:
            if (packed and bits > 8) or (vr == "US" and (kind == "palette" or inputs == 16)):
                continue
            count, n = 1 << inputs, len(whole)
            odd = [int(random.integers(1, 65536))]
            changed = [(count, bits, n)]
            changed += [(other, bits, n) for other in (n - 1, n + 1, n // 2, 2 * n, 3 * n, 1, *odd)]
            changed += [(count, other, n) for other in (0, 1, 8, 9, 12, 16, 17)]
            changed += [(count, bits, n + more) for more in (-1, -2, -n // 40, -n // 2, -n + 1, -n)]
            changed += [(count, bits, n + more) for more in (1, 7, n)]
            for declared, depth, there in changed:
                if not 0 < declared <= 65536:
                    continue
                entries = np.concatenate([whole, whole])[:there]
                value = data(entries, syntax, vr=vr, packed=packed)
                attributes = spread(kind, [declared % 65536, 0, depth], value, vr)
                try:
                    found = shown(values, syntax, inputs, **attributes)
                except HilumError:
                    # A miscount by one is a habit of writers, and harmless in words.
                    assert packed or (declared, depth) != (count + 1, bits)
                    continue
                if "voi_ignored" in found.header.flags or (kind == "Modality" and (
                    "modality_lut_ignored" in found.header.flags or not there)):  # fmt: skip
                    continue
                if not there and kind == "VOI":
                    np.testing.assert_allclose(found.pixels, values / values.max(), atol=1e-6)
                    continue
                right += 1
                usable = entries[: min(declared, len(whole))]
                assert len(usable) >= len(whole) * 15 / 16 - 1
                want = expected(kind, usable, values)
                needed = int(usable.max()).bit_length()
                if kind == "palette" and needed > 8:  # dark pictures stay dark
                    want *= ((1 << needed) - 1) / ((1 << max(needed, depth)) - 1)
                np.testing.assert_allclose(found.pixels, want, atol=2e-6)
    assert right > 60


@pytest.mark.parametrize("kind", ["VOI", "Modality", "palette"])
def test_entries_that_no_value_meets_may_be_missing(kind: str) -> None:
    values, entries = pixels(12), curve(4096, 16)
    attributes = spread(kind, [0, 0, 16], entries.astype("<u2").tobytes(), "OW")
    found = shown(values, ExplicitVRLittleEndian, 12, **attributes)
    np.testing.assert_allclose(found.pixels, expected(kind, entries, values), atol=1e-6)
    assert not found.header.flags or kind == "palette"
    short = spread(kind, [4096, 0, 16], entries[:4000].astype("<u2").tobytes(), "OW")
    found = shown(values, ExplicitVRLittleEndian, 12, **short)
    np.testing.assert_allclose(found.pixels, expected(kind, entries[:4000], values), atol=1e-6)
    assert found.header.flags[-1] == "lut_short"
    half = spread(kind, [4096, 0, 16], entries[:2048].astype("<u2").tobytes(), "OW")
    with pytest.raises(InconsistentPixelsError, match="4096 entries"):
        shown(values, ExplicitVRLittleEndian, 12, **half)


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (8, 257), (16, 1), (12, 1)])
def test_the_range_is_that_of_the_entries(bits: int, scale: int) -> None:
    entries = curve(4096, 8) * scale
    found = shown(pixels(12), ExplicitVRLittleEndian, 12,
                  VOILUTSequence=table([4096, 0, bits], entries.tolist(), "US"))  # fmt: skip
    want = curve(4096, 8)[pixels(12)] / 255
    np.testing.assert_allclose(found.pixels, want, atol=1e-6)


@pytest.mark.parametrize(("first", "vr"), [(-1000, "SS"), (64536, "US")])
def test_a_first_input_of_another_sign_counts_where_the_table_would_miss_all(
    first: int, vr: str
) -> None:
    """A table that begins below zero is used where no value is below zero, too."""
    entries = curve(5096, 12)
    sequence = table([5096, first, 12], entries.tolist(), "US", vr)
    found = shown(pixels(12), ExplicitVRLittleEndian, 12, VOILUTSequence=sequence)
    np.testing.assert_allclose(found.pixels, entries[pixels(12) + 1000] / 4095, atol=1e-6)


# --- what is optional -----------------------------------------------------------------------

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
EMPTY = Sequence([Dataset()])
NONSENSE = table([4096, 0, 40], [1, 2, 3], "US")
FLAT = table([3, 0, 8], [7, 7, 7], "US")


@pytest.mark.parametrize(
    ("attributes", "flags"),
    [
        ({"VOILUTSequence": EMPTY}, ()),
        ({"VOILUTSequence": Sequence([])}, ()),
        ({"VOILUTSequence": NONSENSE}, ("voi_ignored",)),
        ({"VOILUTSequence": FLAT}, ("voi_ignored",)),
        ({"VOILUTSequence": table([4096, 0, 12], b"", "OW")}, ("voi_ignored",)),
        ({"ModalityLUTSequence": EMPTY}, ()),
        ({"ModalityLUTSequence": NONSENSE}, ("modality_lut_ignored",)),
        ({"WindowCenter": [7, 2048], "WindowWidth": [0, 4096]}, ("voi_ignored",)),
        ({"WindowCenter": [7, 2048], "WindowWidth": [-5, 4096]}, ("voi_ignored",)),
        ({"WindowCenter": [7, 2048], "WindowWidth": [0.5, 4096]}, ("voi_ignored",)),
    ],
)
def test_the_next_alternative_is_taken(attributes: dict[str, Any], flags: tuple[str, ...]) -> None:
    values = pixels(12)
    found = shown(values, ExplicitVRLittleEndian, 12, **WINDOW | attributes)
    plain = shown(values, ExplicitVRLittleEndian, 12, **WINDOW)
    assert np.array_equal(found.pixels, plain.pixels)
    assert found.header.flags == flags


def test_the_next_table_of_a_sequence() -> None:
    values, good = pixels(12), table([4096, 0, 12], curve(4096, 12).tolist(), "US")
    both = Sequence([*EMPTY, *NONSENSE, *good])
    found = shown(values, ExplicitVRLittleEndian, 12, **WINDOW, VOILUTSequence=both)
    np.testing.assert_allclose(found.pixels, curve(4096, 12)[values] / 4095, atol=1e-6)
    assert found.header.flags == ("voi_ignored",)


def test_without_any_alternative_the_full_range_is_shown() -> None:
    values = pixels(12)
    for attributes in ({"WindowCenter": 2048, "WindowWidth": 0}, {"VOILUTSequence": NONSENSE}):
        found = shown(values, ExplicitVRLittleEndian, 12, **attributes)
        np.testing.assert_allclose(found.pixels, values / 4095, atol=1e-6)
        assert found.header.flags == ("voi_ignored",)
    rescaled = {"RescaleSlope": -1, "RescaleIntercept": 4095, "ModalityLUTSequence": NONSENSE}
    found = shown(values, ExplicitVRLittleEndian, 12, **rescaled)
    np.testing.assert_allclose(found.pixels, 1 - values / 4095, atol=1e-6)


# --- windows that miss the data -------------------------------------------------------------


def film(low: int, high: int) -> np.ndarray:
    """``[300, 260]`` unsigned words from ``low`` to ``high``."""
    return np.linspace(low, high, 300 * 260).astype(np.uint16).reshape(300, 260)


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (film(33000, 36000), WINDOW),
        (film(10, 1000), {"WindowCenter": 40000, "WindowWidth": 4000}),
        (film(10, 1000), {"VOILUTSequence": table([4096, 20000, 12], list(range(4096)), "US")}),
        (film(10, 1000), {"WindowCenter": 500, "WindowWidth": 1}),
    ],
)
def test_a_window_that_misses_the_data(values: np.ndarray, attributes: dict[str, Any]) -> None:
    with pytest.raises(HilumError, match="one or two greys") as caught:
        shown(values, ExplicitVRLittleEndian, 16, **attributes)
    assert caught.value.code == "dicom.window_misses_data"
    offset = "an offset of 32768" in str(caught.value)
    assert offset == (int(values.min()) > 32768)
    raw = native(values, ExplicitVRLittleEndian, **described(values, bits=16), **attributes)
    with pytest.raises(HilumError, match="one or two greys"):
        dicom.decode(dicom.open_object(raw, Limits()), side=100)
    with pytest.raises(HilumError, match="one or two greys"):
        dicom.decode(dicom.open_object(raw, Limits()), side=40)


def test_padding_is_no_part_of_what_a_window_misses() -> None:
    """Where a block is all padding its mean is of nothing."""
    values = film(205, 3890)
    said = {**described(values, bits=16), "WindowCenter": 34768, "WindowWidth": 1000,
            "PixelPaddingValue": 205, "PixelPaddingRangeLimit": 2000}  # fmt: skip
    opened = dicom.open_object(native(values, ExplicitVRLittleEndian, **said), Limits())
    for side in (None, 60):
        with pytest.raises(HilumError, match=r"values are 20\d\d") as caught:
            dicom.decode(opened, side=side)
        assert caught.value.code == "dicom.window_misses_data"


def test_what_has_no_range_is_no_fault_of_the_window() -> None:
    """Such a film is blank, which the picture's own check says."""
    constant = np.full((300, 260), 33000, np.uint16)
    assert len(np.unique(shown(constant, ExplicitVRLittleEndian, 16, **WINDOW).pixels)) == 1
    half = film(0, 4095)
    half[:, :130] = 65000
    assert shown(half, ExplicitVRLittleEndian, 16, **WINDOW).pixels.shape == half.shape
