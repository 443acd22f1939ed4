"""Stored values become presentation values (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.4 N.2).

The steps in their order: Modality LUT or Rescale, VOI LUT or window, polarity, once. The output
is float32 in [0, 1], larger is brighter on a light box's terms: bone bright, air dark.

Every step maps one value to one value. Up to 16 bits they are computed once for each possible
stored value and the image is looked up: exact, and quick at any image size. Deeper images are
computed pixel by pixel. Both some rows at a time: a film as floats is twice to four times the film.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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

# Flags: the picture may differ from what the modality meant.
VOI_IGNORED: Final = "voi_ignored"
MODALITY_LUT_IGNORED: Final = "modality_lut_ignored"
LUT_SHORT: Final = "lut_short"

_LOOKED_AT: Final = 128  # samples along each side that tell whether a window shows anything
_FEWEST: Final = 8192  # of them; a small cut-out may well lie beyond a good window
_ALL: Final = 0.995  # of them; an edge makes some others


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
    flags: tuple[str, ...] = ()  # what was left out or mended

    @classmethod
    def read(cls, dataset: Dataset, header: FilmHeader) -> Greyscale:
        """Read and check the modules of the greyscale pipeline.

        LUTs and windows are optional. One that says nothing (an empty item, a table without
        entries, a window of no width) is left out, the next one in its sequence or list is taken,
        then what stands in for it: Rescale for a Modality LUT (PS3.3 C.11.1), a window for a VOI
        LUT (C.11.2), the full range for a window.

        Raises:
            InconsistentPixelsError: a LUT contradicts itself, or Rescale or VOI LUT Function break
                the rules of their module.
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
    """A film as it would be shown, computed some rows at a time, when they are asked for."""

    stored: StoredValues | Float32Array  # [H, W]
    tones: Callable[[StoredValues | Float32Array], Float32Array]  # of any of them

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


def presentation(
    stored: StoredValues | Float32Array, header: FilmHeader, how: Greyscale
) -> Float32Array:
    """The image ``[H, W]`` as it would be shown, float32 in [0, 1], larger is brighter.

    Means of stored values are floats; what lies between two stored values is shown between what
    they are shown as. Not for deep images.
    """
    return present(stored, header, how).whole()


def present(stored: StoredValues | Float32Array, header: FilmHeader, how: Greyscale) -> Shown:
    """:func:`presentation`, row by row."""
    return Shown(stored=stored, tones=_mapping(stored, header, how))


def _mapping(
    stored: StoredValues | Float32Array, header: FilmHeader, how: Greyscale
) -> Callable[[StoredValues | Float32Array], Float32Array]:
    """What shows any part of ``stored``."""
    if header.bits_stored > TABLE_BITS:
        full = _own_range(stored, how)
        return lambda part: _show_values(part.astype(np.float64), how, full=full).astype(np.float32)
    low, high = stored_range(header)
    values = np.arange(low, high + 1, dtype=np.float64)
    table = _show_values(values, how, full=_modality_range(low, high, how.modality)).astype(
        np.float32
    )
    if stored.dtype.kind == "f":
        return partial(_between, *_finer(table, max(0, 12 - header.bits_stored)), np.float32(low))
    # Nothing beyond the range should come from a decoder; what does is black or white.
    wide = np.int64 if stored.dtype.itemsize > 2 else np.int32

    def look_up(part: StoredValues | Float32Array) -> Float32Array:
        index: npt.NDArray[Any] = part.astype(wide) - low if low else part
        return table.take(index, mode="clip")

    return look_up


def _finer(table: Float32Array, finer: int) -> tuple[Float32Array, np.float32]:
    """``table`` with 2^finer steps a stored value, 4096 or more over the range."""
    if finer:
        steps = np.arange(((len(table) - 1) << finer) + 1) / (1 << finer)
        table = np.interp(steps, np.arange(len(table)), table).astype(np.float32)
    return table, np.float32(1 << finer)


def _between(
    table: Float32Array, steps: np.float32, low: np.float32, part: Float32Array
) -> Float32Array:
    """What lies between two stored values, from a table with ``steps`` a stored value."""
    index = (part - low) * steps + np.float32(0.5)
    inside = np.clip(index, 0, len(table) - 1)  # wavelets overshoot
    return np.asarray(table[inside.astype(np.uint32)])


def _own_range(stored: StoredValues | Float32Array, how: Greyscale) -> Range:
    """What a deep film shows without a VOI: no film fills 32 bits, and float32 could not tell its
    values apart."""
    outside = padding(stored, how)
    film = stored if outside is None else stored[~outside]
    return _modality_range(int(film.min()), int(film.max()), how.modality)


def padding(stored: StoredValues | Float32Array, how: Greyscale) -> BoolArray | None:
    """Where the image is declared to be no image, bool ``[H, W]``; ``None`` if nowhere.

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
    """Refuse a film of which the header's LUT or window leaves one or two greys.

    No viewer shows such a film, and nothing in it says what its values mean: those of a film that
    was encoded with an offset look like those of one that was exposed beyond its window.

    Args:
        film: the film, as :func:`present` has it.
        header: of the film.
        how: it is shown.
        outside: ``[h, w]``, which samples are no image, if their values do not tell.

    Raises:
        WindowMissesDataError: two greys are all that is shown, and more than two values are stored.
    """
    if how.modality is None and how.voi is None:
        return
    every = tuple(slice(None, None, max(1, side // _LOOKED_AT)) for side in film.shape)
    values = film.stored[every]
    # Of fewer samples than the film has pixels each counts for several: both paths refuse alike.
    sides = (header.rows, header.columns)
    of_film = math.prod(-(-side // max(1, side // _LOOKED_AT)) for side in sides) / values.size
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
    """Whether two values are nearly all of ``values``."""
    counts = np.unique(values, return_counts=True)[1]
    return len(counts) <= 2 or int(np.partition(counts, -2)[-2:].sum()) >= _ALL * values.size


def _offset(values: StoredValues | Float32Array, header: FilmHeader, how: Greyscale) -> str:
    """What is likely, if the window would show the film without half the range of its values."""
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
    """Modality LUT, else Rescale (PS3.3 C.11.1), and the flags for what was left out."""
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
    """The first LUT of a sequence that can be used; ``flag`` if one before it had something in it.

    Raises:
        InconsistentPixelsError: a table contradicts its descriptor.
    """
    flags: tuple[str, ...] = ()
    for item in dataset.get(keyword) or ():
        try:
            return (
                Lut.read(item, inputs=inputs, little_endian=little_endian(header.transfer_syntax)),
                flags,
            )
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
    """The first usable VOI LUT, else the first usable window (PS3.3 C.11.2), and the flags for
    what was left out."""
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
    """Stored values to [0, 1]; ``full`` is the range of modality values shown without a VOI."""
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
    """Modality values to [0, 1]."""
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
    C.11.6): together they still invert once."""
    inverse = text(dataset, "PresentationLUTShape") == "INVERSE"
    return header.photometric == "MONOCHROME1" or inverse


def _padding(dataset: Dataset, header: FilmHeader) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    both = (first, first if limit is None else limit)
    ends = [_stored_number(_first(value), header) for value in both]
    return min(ends), max(ends)


def _real(dataset: Dataset, keyword: str) -> float | None:
    """The first value, or ``None`` if the attribute is absent or empty."""
    values = _reals(dataset, keyword)
    if not values:
        return None
    if not np.isfinite(values[0]):
        raise InconsistentPixelsError(f"{keyword} is not a finite number.")
    return values[0]


def _reals(dataset: Dataset, keyword: str) -> list[float]:
    """All values, NaN for what is not a number; none if the attribute is absent or empty."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError, OverflowError):  # pydicom, of a decimal string that is none
        return [np.nan]
    if value is None or value == "":
        return []
    one = not hasattr(value, "__len__") or isinstance(value, str)
    return [_number(part) for part in ([value] if one else value)]


def _first(value: Any) -> Any:
    """The first of several values, where one should be."""
    several = isinstance(value, list | MultiValue) and len(value) > 0
    return value[0] if several else value


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return np.nan
    return number if np.isfinite(number) else np.nan


def _stored_number(value: object, header: FilmHeader) -> int:
    """Padding values are 16 bits, US or SS, whatever was right, or bytes (implicit VR); bring
    them to the signedness of the pixels."""
    try:
        number = (
            int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]
        )
    except (TypeError, ValueError):
        raise InconsistentPixelsError("Pixel Padding Value (0028,0120) is not a number.") from None
    number %= 1 << 16
    return int(number - (1 << 16) if header.signed and number >= 1 << 15 else number)
