"""Turn stored values into presentation values (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2).

The steps are Modality LUT or Rescale, then VOI LUT or window, then polarity, once. The output is
float32 in [0, 1]. Larger is brighter, as on a light box: bone is bright, air is dark.

Every step maps one value to one value. Up to 16 bits the steps are computed once for each possible
stored value, and each pixel is looked up: exact, and fast at any image size. Deeper images are
computed pixel by pixel. Both work on some rows at a time, because a film as floats needs two to
four times the memory of the film.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from hilum.dicom.header import FilmHeader, text
from hilum.dicom.lut import Lut, Range, UnusableTableError
from hilum.dicom.syntaxes import little_endian
from hilum.errors import InconsistentPixelsError, WindowMissesDataError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
StoredValues = npt.NDArray[np.integer[Any]]  # [H, W], or [H, W, 3] of a colour capture

TABLE_BITS: Final = 16  # deeper tables would be larger than the image
_ROWS_AT_ONCE: Final = 64  # float64 copies of so many rows are alive at a time

# Flags: the picture may differ from the one that the modality intended.
VOI_IGNORED: Final = "voi_ignored"
MODALITY_LUT_IGNORED: Final = "modality_lut_ignored"
LUT_SHORT: Final = "lut_short"

_CHECKED: Final = 128  # samples along each side that show whether a window fits
_FEWEST: Final = 8192  # such samples; a small cut-out may lie beyond a good window
_ALL: Final = 0.995  # share of these samples; edges have other values


@dataclass(frozen=True, kw_only=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: str


@dataclass(frozen=True, kw_only=True)
class Greyscale:
    """How the header says to show stored values."""

    modality: Lut | tuple[float, float] | None  # LUT, or slope and intercept
    voi: Lut | Window | None
    inverted: bool
    padding: tuple[int, int] | None  # first and last stored value that are no image
    flags: tuple[str, ...] = ()  # what was ignored or mended

    @classmethod
    def read(cls, dataset: Dataset, header: FilmHeader) -> Greyscale:
        """Read and check the modules of the greyscale pipeline.

        LUTs and windows are optional. One that says nothing (an empty item, a table without
        entries, a window of no width) is ignored in favour of the next one in its sequence or list,
        then of its substitute: Rescale for a Modality LUT (PS3.3 C.11.1), a window for a VOI LUT
        (C.11.2), the full range for a window.

        Raises:
            InconsistentPixelsError: a LUT contradicts itself, or Rescale or VOI LUT Function
                violates its module.
        """
        modality, modality_flags = _modality(dataset, header)
        inputs = _modality_range(*stored_range(header), modality)
        voi, voi_flags = _voi(dataset, header, inputs)
        short = any(isinstance(table, Lut) and table.short for table in (modality, voi))
        return cls(
            modality=modality,
            voi=voi,
            inverted=_inverted(dataset, header),
            padding=_padding(dataset, header),
            flags=modality_flags + voi_flags + ((LUT_SHORT,) if short else ()),
        )


PLAIN: Final = Greyscale(modality=None, voi=None, inverted=False, padding=None)


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Shown:
    """A film as a viewer shows it. Its rows are computed when they are requested."""

    stored: StoredValues | Float32Array  # [H, W]
    tones: Callable[[StoredValues | Float32Array], Float32Array]  # shows any part of it

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        return self.stored.shape

    def rows(self, start: int, stop: int) -> Float32Array:
        """Rows from ``start`` up to ``stop``, float32 ``[n, W]`` in [0, 1]."""
        return self.tones(self.stored[start:stop])

    def whole(self) -> Float32Array:
        """All rows, ``[H, W]``."""
        found = np.empty(self.shape, dtype=np.float32)
        for start in range(0, len(found), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(found))
            found[start:stop] = self.rows(start, stop)
        return found


def present(stored: StoredValues | Float32Array, header: FilmHeader, how: Greyscale) -> Shown:
    """The image ``[H, W]`` as a viewer shows it, float32 in [0, 1], larger is brighter.

    ``stored`` may hold means of stored values, as floats, unless the image is deeper than 16 bits.
    A value between two stored values is shown between the tones of these two.
    """
    return Shown(stored=stored, tones=_mapping(stored, header, how))


def _mapping(
    stored: StoredValues | Float32Array, header: FilmHeader, how: Greyscale
) -> Callable[[StoredValues | Float32Array], Float32Array]:
    """A function that shows any part of ``stored``."""
    if header.bits_stored > TABLE_BITS:
        # Without a VOI the range is that of the film: no film fills 32 bits, and float32 could not
        # tell its values apart.
        outside = padding(stored, how)
        film = stored if outside is None else stored[~outside]
        full = _modality_range(int(film.min()), int(film.max()), how.modality)
        return lambda part: _show_values(part.astype(np.float64), how, full=full).astype(np.float32)
    low, high = stored_range(header)
    values = np.arange(low, high + 1, dtype=np.float64)
    full = _modality_range(low, high, how.modality)
    table = _show_values(values, how, full=full).astype(np.float32)
    if stored.dtype.kind == "f":
        return _interpolation(table, low, finer=max(0, 12 - header.bits_stored))
    # A decoder should give nothing beyond the range; if it does, that is black or white.
    wide = np.int64 if stored.dtype.itemsize > 2 else np.int32

    def look_up(part: StoredValues | Float32Array) -> Float32Array:
        index: npt.NDArray[Any] = part.astype(wide) - low if low else part
        return table.take(index, mode="clip")

    return look_up


def _interpolation(
    table: Float32Array, low: int, *, finer: int
) -> Callable[[StoredValues | Float32Array], Float32Array]:
    """Look up values between stored values, in a table of 2^``finer`` steps a stored value, which
    are 4096 or more over the range."""
    if finer:
        steps = np.arange(((len(table) - 1) << finer) + 1) / (1 << finer)
        table = np.interp(steps, np.arange(len(table)), table).astype(np.float32)

    def look_up(part: StoredValues | Float32Array) -> Float32Array:
        index = (part - np.float32(low)) * np.float32(1 << finer) + np.float32(0.5)
        inside = np.clip(index, 0, len(table) - 1)  # wavelets overshoot
        return np.asarray(table[inside.astype(np.uint32)])

    return look_up


def padding(stored: StoredValues | Float32Array, how: Greyscale) -> BoolArray | None:
    """The pixels that are declared to be no image, bool ``[H, W]``; ``None`` if there are none.

    Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) are compared with stored values.
    """
    if how.padding is None:
        return None
    low, high = how.padding
    mask: BoolArray = stored >= low
    mask &= stored <= high
    return mask if mask.any() and not mask.all() else None


def stored_range(header: FilmHeader) -> tuple[int, int]:
    """The smallest and largest value that Bits Stored can hold (PS3.5 section 8.1.1)."""
    count = 1 << header.bits_stored
    return (-count // 2, count // 2 - 1) if header.signed else (0, count - 1)


def check_seen(
    film: Shown, header: FilmHeader, how: Greyscale, *, outside: BoolArray | None = None
) -> None:
    """Refuse a film that the header's LUT or window shows as one or two greys.

    No viewer can show such a film, and its values do not say what they mean: a film that was
    encoded with an offset looks like one that was exposed beyond its window. ``outside``, ``[h,
    w]``, are the samples that are no image, if their values do not tell.

    Raises:
        WindowMissesDataError: only two greys are shown, but more than two values are stored.
    """
    if how.modality is None and how.voi is None:
        return
    every = tuple(slice(None, None, max(1, side // _CHECKED)) for side in film.shape)
    values = film.stored[every]
    # If there are fewer samples than pixels, each counts for several, so both are refused alike.
    sides = (header.rows, header.columns)
    of_film = math.prod(-(-side // max(1, side // _CHECKED)) for side in sides) / values.size
    if outside is not None:
        values = values[~outside[every]]
    elif how.padding is not None:
        values = values[(values < how.padding[0]) | (values > how.padding[1])]
    greys = film.tones(values)
    if values.size * of_film < _FEWEST or not _two_at_most(greys) or _two_at_most(values):
        return
    raise WindowMissesDataError(
        f"The window or LUT of the header shows the whole film as one or two greys; its stored "
        f"values are {values.min():g} to {values.max():g}.{_offset(values, header, how)}"
    )


def _two_at_most(values: StoredValues | Float32Array) -> bool:
    """Whether nearly all of ``values`` have one of two values."""
    counts = np.unique(values, return_counts=True)[1]
    return len(counts) <= 2 or int(np.partition(counts, -2)[-2:].sum()) >= _ALL * values.size


def _offset(values: StoredValues | Float32Array, header: FilmHeader, how: Greyscale) -> str:
    """The likely cause, if the window fits values that are shifted by half their range."""
    low, high = stored_range(header)
    half = (high - low + 1) // 2
    numbers = values.astype(np.int64)
    moved = np.where(numbers >= low + half, numbers - half, numbers + half)
    if header.bits_stored > TABLE_BITS or _two_at_most(_mapping(moved, header, how)(moved)):
        return ""
    return f" They would fit with an offset of {half}: see Pixel Representation (0028,0103)."


def _modality(
    dataset: Dataset, header: FilmHeader
) -> tuple[Lut | tuple[float, float] | None, tuple[str, ...]]:
    """Modality LUT, or else Rescale (PS3.3 C.11.1), and flags for what was ignored."""
    table, flags = _first_table(
        dataset, "ModalityLUTSequence", header, stored_range(header), MODALITY_LUT_IGNORED
    )
    if table is not None:
        return table, flags
    slope, intercept = _real(dataset, "RescaleSlope"), _real(dataset, "RescaleIntercept")
    if slope is None or intercept is None:
        return None, flags
    if slope == 0:
        raise InconsistentPixelsError("Rescale Slope (0028,1053) is 0.")
    return (slope, intercept), flags


def _first_table(
    dataset: Dataset, keyword: str, header: FilmHeader, inputs: Range, flag: str
) -> tuple[Lut | None, tuple[str, ...]]:
    """The first usable LUT of a sequence. ``flag`` if one before it was not empty."""
    flags: tuple[str, ...] = ()
    for item in dataset.get(keyword) or ():
        try:
            order = little_endian(header.transfer_syntax)
            return Lut.read(item, inputs=inputs, little_endian=order), flags
        except UnusableTableError:
            if item.get("LUTDescriptor") or item.get("LUTData"):
                flags = (flag,)
    return None, flags


def _modality_range(
    low: int, high: int, modality: Lut | tuple[float, float] | None
) -> tuple[float, float]:
    """The smallest and largest modality value of stored values from ``low`` to ``high``."""
    if modality is None:
        return low, high
    if isinstance(modality, Lut):
        return modality.range(low, high)
    slope, intercept = modality
    ends = low * slope + intercept, high * slope + intercept
    return min(ends), max(ends)


def _voi(
    dataset: Dataset, header: FilmHeader, inputs: Range
) -> tuple[Lut | Window | None, tuple[str, ...]]:
    """The first usable VOI LUT, or else the first usable window (PS3.3 C.11.2), and flags for what
    was ignored."""
    table, flags = _first_table(dataset, "VOILUTSequence", header, inputs, VOI_IGNORED)
    if table is not None:
        return table, flags
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    windows = zip(_reals(dataset, "WindowCenter"), _reals(dataset, "WindowWidth"), strict=False)
    for centre, width in windows:
        if not np.isfinite(centre) or not width > 0 or (function == "LINEAR" and width < 1):
            flags = (VOI_IGNORED,)
            continue
        if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
            raise InconsistentPixelsError(
                "VOI LUT Function (0028,1056) is none of LINEAR, LINEAR_EXACT and SIGMOID."
            )
        return Window(centre=centre, width=width, function=function), flags
    return None, flags


def _show_values(
    values: Float64Array, how: Greyscale, *, full: tuple[float, float]
) -> Float64Array:
    """Map stored values to [0, 1]; ``full`` is the range of modality values without a VOI."""
    if isinstance(how.modality, Lut):
        values = how.modality.apply(values)
    elif how.modality is not None:
        slope, intercept = how.modality
        values = values * slope + intercept
    greys = _apply_voi(values, how.voi, full)
    return 1 - greys if how.inverted else greys


def _apply_voi(
    values: Float64Array, voi: Lut | Window | None, full: tuple[float, float]
) -> Float64Array:
    """Map modality values to [0, 1]."""
    if isinstance(voi, Lut):
        return np.asarray(voi.apply(values) / ((1 << voi.bits) - 1))
    if voi is None:
        low, high = full
        return np.asarray(np.clip((values - low) / ((high - low) or 1), 0, 1))
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
    C.11.6), so together they invert once."""
    inverse = text(dataset, "PresentationLUTShape") == "INVERSE"
    return header.photometric == "MONOCHROME1" or inverse


def _padding(dataset: Dataset, header: FilmHeader) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_padding_value(value, header) for value in (first, first if limit is None else limit)]
    return min(ends), max(ends)


def _padding_value(value: Any, header: FilmHeader) -> int:
    """Padding values are written as US or SS, whichever is right, or as bytes (implicit VR). Give
    them the signedness of the pixels."""
    if isinstance(value, list | MultiValue) and len(value) > 0:
        value = value[0]
    try:
        number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    except (TypeError, ValueError):
        raise InconsistentPixelsError("Pixel Padding Value (0028,0120) is not a number.") from None
    number %= 1 << 16
    return int(number - (1 << 16) if header.signed and number >= 1 << 15 else number)


def _real(dataset: Dataset, keyword: str) -> float | None:
    """The first value, or ``None`` if the attribute is absent or empty."""
    values = _reals(dataset, keyword)
    if values and not np.isfinite(values[0]):
        raise InconsistentPixelsError(f"{keyword} is not a finite number.")
    return values[0] if values else None


def _reals(dataset: Dataset, keyword: str) -> list[float]:
    """All values, NaN for each that is not a finite number; none if there is no attribute."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError, OverflowError):  # from pydicom, for a broken decimal string
        return [np.nan]
    if value is None or value == "":
        return []
    one = not hasattr(value, "__len__") or isinstance(value, str)
    return [_number(part) for part in ([value] if one else value)]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return np.nan
    return number if np.isfinite(number) else np.nan
