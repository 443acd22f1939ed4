"""Stored values become presentation values (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2).

The steps in their order: Modality LUT or Rescale, VOI LUT or window, polarity, once. The output
is float32 in [0, 1], larger is brighter on a light box's terms: bone bright, air dark.

Every step maps one value to one value, so they are computed once for each possible stored value
and the image is looked up: exact, and quick at any image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from hilum.dicom.decode import StoredValues
from hilum.dicom.header import FilmHeader
from hilum.errors import InconsistentPixelsError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def presentation(stored: StoredValues, header: FilmHeader, dataset: Dataset) -> Float32Array:
    """The image ``[H, W]`` as it would be shown, float32 in [0, 1], larger is brighter.

    Raises:
        InconsistentPixelsError: a LUT or window breaks the rules of its module.
    """
    bits = header.bits_stored
    lowest = -(1 << (bits - 1)) if header.signed else 0
    domain = np.arange(lowest, lowest + (1 << bits), dtype=np.float64)
    values = _modality(domain, dataset)
    shown = _voi(values, dataset)
    if _inverted(header, dataset):
        shown = 1 - shown
    table = shown.astype(np.float32)
    return table[stored.astype(np.intp) - lowest]


def padding(stored: StoredValues, header: FilmHeader, dataset: Dataset) -> BoolArray | None:
    """Where the image is declared to be no image, bool ``[H, W]``; ``None`` if nowhere.

    Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) are compared with stored values.
    """
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_stored_number(value, header) for value in (first, first if limit is None else limit)]
    mask: BoolArray = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() and not mask.all() else None


def _modality(values: Float64Array, dataset: Dataset) -> Float64Array:
    """Modality LUT, else Rescale (PS3.3 C.11.1)."""
    if sequence := dataset.get("ModalityLUTSequence"):
        return _Lut.read(sequence[0], signed_input=values[0] < 0).apply(values)
    slope, intercept = _real(dataset, "RescaleSlope"), _real(dataset, "RescaleIntercept")
    if slope is None or intercept is None:
        return values
    if slope == 0:
        raise InconsistentPixelsError("Rescale Slope (0028,1053) is 0.")
    return values * slope + intercept


def _voi(values: Float64Array, dataset: Dataset) -> Float64Array:
    """VOI LUT, else the first window, else the full range (PS3.3 C.11.2), to [0, 1]."""
    if sequence := dataset.get("VOILUTSequence"):
        lut = _Lut.read(sequence[0], signed_input=values.min() < 0)
        return lut.apply(values) / ((1 << lut.bits) - 1)
    centre, width = _real(dataset, "WindowCenter"), _real(dataset, "WindowWidth")
    if centre is not None and width is not None:
        return _window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def _window(values: Float64Array, centre: float, width: float, function: str) -> Float64Array:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT)."""
    function = function.strip().upper()
    if function == "LINEAR" and width >= 1:
        if width == 1:  # the formula's ramp has no length
            return (values > centre - 0.5).astype(np.float64)
        return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1))
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function == "SIGMOID" and width > 0:
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    raise InconsistentPixelsError(
        f"Window Width {width:g} is not allowed for its VOI LUT Function, or the function is none "
        "of LINEAR, LINEAR_EXACT and SIGMOID."
    )


def _inverted(header: FilmHeader, dataset: Dataset) -> bool:
    """MONOCHROME1 and Presentation LUT Shape INVERSE say the same thing (PS3.3 C.8.11.3.1.2 and
    C.11.6): together they still invert once."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return header.photometric == "MONOCHROME1" or shape == "INVERSE"


@dataclass(frozen=True, kw_only=True)
class _Lut:
    """A lookup table (PS3.3 C.11.1.1.1, C.11.2.1.1)."""

    first: int  # the input that maps to the first entry; smaller ones do too
    bits: int
    entries: Float64Array

    @classmethod
    def read(cls, item: Dataset, *, signed_input: bool) -> _Lut:
        descriptor = item.get("LUTDescriptor")
        if descriptor is None or len(descriptor) != 3:
            raise InconsistentPixelsError("LUT Descriptor (0028,3002) has not three values.")
        count, first, bits = (int(n) for n in descriptor)
        count = count % (1 << 16) or 1 << 16  # 0 stands for 65536
        if signed_input and first >= 1 << 15:
            first -= 1 << 16  # read as US, meant as SS
        if not 1 <= bits <= 16:
            raise InconsistentPixelsError(f"LUT Descriptor says {bits} bits; expected 8 to 16.")
        entries = _entries(item.get("LUTData"), count)
        if len(entries) < count:
            raise InconsistentPixelsError(
                f"LUT Data (0028,3006) has {len(entries)} entries; its descriptor says {count}."
            )
        return cls(first=first, bits=bits, entries=entries[:count].astype(np.float64))

    def apply(self, values: Float64Array) -> Float64Array:
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.intp)])


def _entries(data: object, count: int) -> npt.NDArray[np.uint16]:
    """LUT Data, whatever value representation it was written with."""
    if isinstance(data, bytes):
        if count <= len(data) < 2 * count:
            return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)
        return np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").astype(np.uint16)
    try:
        return (np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF).astype(np.uint16)
    except (TypeError, ValueError):
        raise InconsistentPixelsError("LUT Data (0028,3006) is not a list of numbers.") from None


def _real(dataset: Dataset, keyword: str) -> float | None:
    """The first value, or ``None`` if the attribute is absent or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(
            value if not hasattr(value, "__len__") or isinstance(value, str) else value[0]
        )
    except (TypeError, ValueError, IndexError):
        raise InconsistentPixelsError(f"{keyword} is not a number.") from None
    if not np.isfinite(number):
        raise InconsistentPixelsError(f"{keyword} is not finite.")
    return number


def _stored_number(value: object, header: FilmHeader) -> int:
    """Padding values are written as US or SS; bring them to the signedness of the pixels."""
    try:
        number = int(value) if not isinstance(value, bytes) else int.from_bytes(value[:2], "little")  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InconsistentPixelsError("Pixel Padding Value is not a number.") from None
    if header.signed and number >= 1 << 15:
        return int(number) - (1 << 16)
    return int(number)
