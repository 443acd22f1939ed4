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

from hilum.dicom.header import FilmHeader
from hilum.errors import InconsistentPixelsError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
StoredValues = npt.NDArray[np.uint8 | np.uint16 | np.int16 | np.int8]


@dataclass(frozen=True, kw_only=True)
class Lut:
    """A lookup table (PS3.3 C.11.1.1.1, C.11.2.1.1)."""

    first: int  # the input that maps to the first entry; smaller ones do too
    bits: int
    entries: Float64Array

    @classmethod
    def read(cls, item: Dataset, *, signed_input: bool) -> Lut:
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


@dataclass(frozen=True, kw_only=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: str


@dataclass(frozen=True, kw_only=True)
class Greyscale:
    """All that the header says of how stored values are shown."""

    modality: Lut | tuple[float, float] | None  # LUT, or slope and intercept
    voi: Lut | Window | None
    inverted: bool
    padding: tuple[int, int] | None  # stored values from … to, inclusive

    @classmethod
    def read(cls, dataset: Dataset, header: FilmHeader) -> Greyscale:
        """Read and check the modules of the greyscale pipeline.

        Raises:
            InconsistentPixelsError: a LUT or window breaks the rules of its module.
        """
        modality = _modality(dataset, header)
        return cls(
            modality=modality,
            voi=_voi(dataset, signed=header.signed or modality is not None),
            inverted=_inverted(dataset, header),
            padding=_padding(dataset, header),
        )


def presentation(
    stored: npt.NDArray[np.integer] | Float32Array, header: FilmHeader, how: Greyscale
) -> Float32Array:
    """The image ``[H, W]`` as it would be shown, float32 in [0, 1], larger is brighter.

    Means of stored values are floats; what lies between two stored values is shown between what
    they are shown as.
    """
    table, lowest = _table(header, how)
    if stored.dtype.kind != "f":
        return np.asarray(table[stored - lowest if lowest else stored])
    # In steps of 1/2^finer of a stored value, 4096 or more over the range.
    finer = max(0, 12 - header.bits_stored)
    if finer:
        steps = np.arange(((len(table) - 1) << finer) + 1) / (1 << finer)
        table = np.interp(steps, np.arange(len(table)), table).astype(np.float32)
    index = (stored - np.float32(lowest)) * np.float32(1 << finer) + np.float32(0.5)
    return np.asarray(table[index.astype(np.uint32)])


def _table(header: FilmHeader, how: Greyscale) -> tuple[Float32Array, int]:
    """What each possible stored value is shown as, and the lowest of them."""
    bits = header.bits_stored
    lowest = -(1 << (bits - 1)) if header.signed else 0
    values = np.arange(lowest, lowest + (1 << bits), dtype=np.float64)
    if isinstance(how.modality, Lut):
        values = how.modality.apply(values)
    elif how.modality is not None:
        slope, intercept = how.modality
        values = values * slope + intercept
    shown = _shown(values, how.voi)
    if how.inverted:
        shown = 1 - shown
    return shown.astype(np.float32), lowest


def padding(stored: StoredValues, how: Greyscale) -> BoolArray | None:
    """Where the image is declared to be no image, bool ``[H, W]``; ``None`` if nowhere.

    Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) are compared with stored values.
    """
    if how.padding is None:
        return None
    low, high = how.padding
    mask: BoolArray = (stored >= low) & (stored <= high)
    return mask if mask.any() and not mask.all() else None


def _modality(dataset: Dataset, header: FilmHeader) -> Lut | tuple[float, float] | None:
    """Modality LUT, else Rescale (PS3.3 C.11.1)."""
    if sequence := dataset.get("ModalityLUTSequence"):
        return Lut.read(sequence[0], signed_input=header.signed)
    slope, intercept = _real(dataset, "RescaleSlope"), _real(dataset, "RescaleIntercept")
    if slope is None or intercept is None:
        return None
    if slope == 0:
        raise InconsistentPixelsError("Rescale Slope (0028,1053) is 0.")
    return slope, intercept


def _voi(dataset: Dataset, *, signed: bool) -> Lut | Window | None:
    """VOI LUT, else the first window (PS3.3 C.11.2)."""
    if sequence := dataset.get("VOILUTSequence"):
        return Lut.read(sequence[0], signed_input=signed)
    centre, width = _real(dataset, "WindowCenter"), _real(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise InconsistentPixelsError(
            "VOI LUT Function (0028,1056) is none of LINEAR, LINEAR_EXACT and SIGMOID."
        )
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise InconsistentPixelsError(f"Window Width {width:g} is not allowed for {function}.")
    return Window(centre=centre, width=width, function=function)


def _shown(values: Float64Array, voi: Lut | Window | None) -> Float64Array:
    """Modality values to [0, 1]."""
    if isinstance(voi, Lut):
        return np.asarray(voi.apply(values) / ((1 << voi.bits) - 1))
    if voi is None:  # the full range
        low, high = values.min(), values.max()
        return np.asarray((values - low) / max(high - low, np.finfo(np.float64).tiny))
    centre, width = voi.centre, voi.width
    if voi.function == "LINEAR_EXACT":  # C.11.2.1.3.2
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))
    if voi.function == "SIGMOID":  # C.11.2.1.3.1
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if width == 1:  # the ramp of C.11.2.1.2.1 has no length
        return (values > centre - 0.5).astype(np.float64)
    return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1))


def _inverted(dataset: Dataset, header: FilmHeader) -> bool:
    """MONOCHROME1 and Presentation LUT Shape INVERSE say the same thing (PS3.3 C.8.11.3.1.2 and
    C.11.6): together they still invert once."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return header.photometric == "MONOCHROME1" or shape == "INVERSE"


def _padding(dataset: Dataset, header: FilmHeader) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_stored_number(value, header) for value in (first, first if limit is None else limit)]
    return min(ends), max(ends)


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
