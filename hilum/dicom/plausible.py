"""Check by the words themselves whether they are stored as the header says.

Bits Stored, High Bit and Pixel Representation say which bits of a word are the value (PS3.5 section
8.1.1). If they are wrong, nothing fails: the picture wraps around, black beside white, and would be
scored. Bits outside the value may also be set legitimately: old films keep graphics in them
(retired overlays, PS3.5 section 8.1.2), and negative values fill them. The picture tells these
cases apart: neighbours are alike in a picture, but not where it wraps around.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.errors import InconsistentPixelsError

Words = npt.NDArray[np.unsignedinteger[Any]]
Integers = npt.NDArray[np.integer[Any]]

# The wrong reading is so many times as rough as the other. Graphics make a picture rougher, never
# smoother; a sign makes it smoother only if black lies beside white.
_ROUGHER_BITS, _ROUGHER_SIGN = 1.05, 1.5
# Neighbours of noise differ by a third of its range, those of a film by much less than this.
_NOISE: Final = 0.15
_STEP: Final = 7  # one row in so many is checked
_MOST_BELOW: Final = 0.25  # share of pixels; graphics have fewer edges
# Few blocks of a lossy codestream have means beyond its range: limits on the distance and share.
_BEYOND, _MOST_BEYOND = 1 / 8, 0.02
_FEWEST_WHITES: Final = 24  # so many different whites beside black are no letters
_BLOCK: Final = 16  # pixels along each side


def as_signed(words: Words, bits: int) -> Integers:
    """The lowest ``bits`` of ``words`` as signed values: shifted to the top and back, so that the
    arithmetic shift extends the sign."""
    shift = max(0, 8 * words.dtype.itemsize - bits)
    values: Integers = (words << shift).view(f"i{words.dtype.itemsize}")
    values >>= shift
    return values


def low_bits(words: Words, bits: int) -> Words:
    """The lowest ``bits`` of ``words``."""
    if bits >= 8 * words.dtype.itemsize or words.max() < 1 << bits:  # nearly always: no copy
        return words
    return words & words.dtype.type((1 << bits) - 1)


def check_below(words: Words, lowest: int) -> None:
    """Check that the bits below ``lowest`` are not part of the values.

    Raises:
        InconsistentPixelsError: they change from pixel to pixel more often than graphics would.
    """
    below = words[::_STEP] & words.dtype.type((1 << lowest) - 1)
    if np.count_nonzero(np.diff(below, axis=1)) > _MOST_BELOW * below.size:
        raise InconsistentPixelsError(
            f"The {lowest} bits below those of Bits Stored (0028,0101) and High Bit (0028,0102) "
            "belong to the values."
        )


def check_bits(
    words: Words, bits: int, *, signed: bool, top: int | None = None, extended: bool = True
) -> None:
    """Check that the lowest ``bits`` of ``words`` are the values, with a sign or without.

    Args:
        words: ``[H, W]``, or ``[H, W, 3]``.
        bits: number of bits of a value.
        signed: whether Pixel Representation says that there is a sign.
        top: number of bits of the codestream; ``None`` for all bits of the words.
        extended: whether higher bits that look like those of a sign prove that there is one.

    Raises:
        InconsistentPixelsError: the values wrap around as declared, and do not otherwise.
    """
    width = 8 * words.dtype.itemsize
    few = words[::_STEP]
    if signed:
        sure = extended and bits < width and _fills(words, bits)
        rough = _roughness(as_signed(few, bits))
        if rough > _ROUGHER_SIGN * _roughness(low_bits(few, bits)) and not sure:
            raise InconsistentPixelsError(
                "Pixel Representation (0028,0103) is 1; the pixels have no sign."
            )
    whole_words = bits >= width
    if not signed and extended and top is None and whole_words and _below_zero(few):
        raise InconsistentPixelsError(
            "Pixel Representation (0028,0103) is 0; the pixels have a sign."
        )
    if whole_words or words.max() < 1 << bits:  # nearly always
        return
    if not signed and extended and _fills(words, bits):
        raise InconsistentPixelsError(
            "Pixel Representation (0028,0103) is 0; the pixels have a sign."
        )
    # The words of a signed codestream have a sign, even if the header says that there is none.
    sign = signed or not extended
    whole = as_signed(few, top or width) if sign else few
    low = as_signed(few, bits) if signed else low_bits(few, bits)
    rough, rougher = _roughness(whole), _roughness(low)
    span = 1 << (int(whole.max()) - int(whole.min())).bit_length()
    noise = _NOISE * low.size * (1 << bits)
    wraps = rougher > noise and rougher / (1 << bits) > _ROUGHER_SIGN * rough / span
    limit = _ROUGHER_BITS if extended else _ROUGHER_SIGN
    if rougher > limit * rough or wraps:
        raise InconsistentPixelsError(
            f"Bits Stored (0028,0101) and High Bit (0028,0102) leave out bits above the {bits} "
            "that they declare and that belong to the values."
        )


def check_overshoot(values: Integers, low: int, high: int) -> None:
    """Check that values beyond ``low`` … ``high`` come from lossy compression of edges: those
    values swing around the stored ones, so that the mean of a block is not beyond.

    Raises:
        InconsistentPixelsError: the means of many blocks are far beyond.
    """
    height, width = (side // _BLOCK * _BLOCK for side in values.shape[:2])
    if not height or not width:
        return
    grid = values[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, -1)
    means = grid.mean(axis=(1, 3))
    margin = (high - low + 1) * _BEYOND
    beyond = np.count_nonzero((means > high + margin) | (means < low - margin))
    if beyond > _MOST_BEYOND * means.size:
        raise InconsistentPixelsError(
            "The codestream holds values beyond those of Bits Stored (0028,0101)."
        )


def _roughness(values: Integers) -> float:
    """The sum of the differences between neighbours in a row."""
    wide = values.astype(np.float64)
    return float(np.abs(np.diff(wide, axis=1)).sum())


def _fills(words: Words, bits: int) -> bool:
    """Whether the bits from the top one of a value upwards look like a sign: all set or none."""
    above = words >> (bits - 1)
    return bool(((above == 0) | (above == np.iinfo(words.dtype).max >> (bits - 1))).all())


def _below_zero(words: Words) -> bool:
    """Whether whole words have a sign: many different values of the top quarter lie beside values
    of the lowest, and read with a sign they differ about as much as neighbours elsewhere. White
    letters lie beside black, too, but have one white, or steep edges."""
    width = 8 * words.dtype.itemsize
    if width < 16:
        return False
    quarter = (words >> (width - 2)).astype(np.int8)
    beside = np.abs(np.diff(quarter, axis=1)) == 3
    if np.count_nonzero(beside) < _FEWEST_WHITES:
        return False
    whites = np.maximum(words[:, 1:], words[:, :-1])[beside]
    values = as_signed(words, width)
    steps = np.abs(np.diff(values.astype(np.int64), axis=1))
    alike = np.median(steps[beside]) <= 4 * np.median(steps[~beside]) + 1
    smoother = _roughness(words) > _ROUGHER_SIGN * _roughness(values)
    return bool(alike and smoother and len(np.unique(whites)) >= _FEWEST_WHITES)
