"""Lookup tables: Modality, VOI and palette (PS3.3 C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from hilum.errors import InconsistentPixelsError

Float64Array = npt.NDArray[np.float64]
UInt16Array = npt.NDArray[np.uint16]
Range = tuple[float, float]

# A table may have this share of its entries too many or too few: writers miscount by one.
_TOLERATED: Final = 1 / 16


class UnusableTableError(InconsistentPixelsError):
    """The table says nothing. A caller that has an alternative may ignore it."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """The three values of a LUT descriptor as they are meant, and what its table is for."""

    count: int
    first: int  # the input that maps to the first entry; smaller ones do too
    bits: int
    inputs: Range  # the smallest and largest value that is looked up
    little_endian: bool  # the order of descriptor and table, if they are bytes

    @classmethod
    def read(cls, value: Any, *, name: str, inputs: Range, little_endian: bool) -> Descriptor:
        """Read the value of an attribute: US or SS, whichever was written, or bytes (implicit VR).

        ``inputs`` decide whether the first input is signed; it is the opposite only if the table
        then covers some of them and otherwise none. ``name`` is for the errors.

        Raises:
            UnusableTableError: there are not three values, or entries of no usable size.
        """
        if isinstance(value, bytes):
            value = np.frombuffer(value[: len(value) // 2 * 2], _word(little_endian)).tolist()
        if value is None or isinstance(value, int | float | str) or len(value) != 3:
            raise UnusableTableError(f"{name} must have exactly three values.")
        try:
            count, first, bits = (int(n) for n in value)
        except (TypeError, ValueError):
            raise UnusableTableError(f"{name} must be three numbers.") from None
        if not 1 <= bits <= 16:
            raise UnusableTableError(f"{name} says {bits} bits; expected 8 to 16.")
        count = count % (1 << 16) or 1 << 16  # 0 is 65536
        unsigned = first % (1 << 16)
        signed = unsigned - (1 << 16) if unsigned >= 1 << 15 else unsigned
        meant, other = (signed, unsigned) if inputs[0] < 0 else (unsigned, signed)
        covers = [n for n in (meant, other) if n <= inputs[1] and n + count > inputs[0]]
        first = (covers or [meant])[0]
        return cls(count=count, first=first, bits=bits, inputs=inputs, little_endian=little_endian)


@dataclass(frozen=True, kw_only=True)
class Lut:
    """A lookup table."""

    first: int
    bits: int  # that the largest entry needs
    entries: Float64Array
    short: bool = False  # entries for some inputs are missing; the last entry stands for them

    @classmethod
    def read(cls, item: Dataset, *, inputs: Range, little_endian: bool) -> Lut:
        """The LUT of an item of a Modality or VOI LUT Sequence, see :class:`Descriptor`.

        Raises:
            UnusableTableError: it is empty, or all its entries are the same.
            InconsistentPixelsError: descriptor and data contradict each other.
        """
        descriptor = Descriptor.read(
            item.get("LUTDescriptor"),
            name="LUT Descriptor (0028,3002)",
            inputs=inputs,
            little_endian=little_endian,
        )
        found = entries(item.get("LUTData"), descriptor, name="LUT Data (0028,3006)")
        if found.min() == found.max():
            raise UnusableTableError("All entries of LUT Data (0028,3006) are the same.")
        return cls(
            first=descriptor.first,
            bits=bits_of(found),
            entries=found.astype(np.float64),
            short=len(found) < descriptor.count and inputs[1] - descriptor.first >= len(found),
        )

    def apply(self, values: Float64Array) -> Float64Array:
        """Entries for ``values`` of any shape; inputs beyond the ends map to the ends."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.intp)])

    def range(self, low: float, high: float) -> Range:
        """The smallest and largest entry that inputs from ``low`` to ``high`` can meet."""
        ends = np.clip(np.rint([low, high]) - self.first, 0, len(self.entries) - 1).astype(int)
        reached = self.entries[ends[0] : ends[1] + 1]
        return float(reached.min()), float(reached.max())


def entries(data: object, kind: Descriptor, *, name: str) -> UInt16Array:
    """LUT data in any value representation; at most ``kind.count`` entries.

    Entries of at most 8 bits may be packed two in a word (PS3.3 C.7.6.3.1.6, and many LUTs that
    should not be); only data of exactly that length is unpacked. A table that ends early is
    returned as it is, if its last entry can stand for the missing ones: they are few, or no input
    reaches them. ``name`` is for the errors.

    Raises:
        UnusableTableError: it is empty, or not a list of numbers.
        InconsistentPixelsError: it has another number of entries than declared, or of other bits.
    """
    words, size = _words(data, name, little_endian=kind.little_endian)
    if not size:
        raise UnusableTableError(f"{name} is empty.")
    count, narrow = kind.count, kind.bits <= 8
    contradiction = InconsistentPixelsError(
        f"{name} has {size} bytes, which are not the {count} entries of {kind.bits} bits that its "
        "descriptor says."
    )
    if len(words) >= count:
        found, surplus = words[:count], words[count:]
        if len(surplus) > count * _TOLERATED and (surplus != found[-1]).any() and surplus.any():
            raise contradiction
        if narrow and found.max() > 255 and _bytes_after_all(found, kind):
            raise contradiction
        return found
    if size in {count, count + count % 2}:
        if not narrow:
            raise contradiction
        packed = words.astype("<u2").view(np.uint8)
        if size % 2:
            assert isinstance(data, bytes)
            packed = np.append(packed, np.uint8(data[-1]))
        if _words_after_all(packed, words):
            raise contradiction
        padded = count > 1 and packed[count - 1] == 0 and packed[count - 2] > 127
        return packed[: count - padded].astype(np.uint16)  # the padding would be black beside white
    needless = kind.inputs[1] - kind.first < len(words)  # no input reaches the missing entries
    if not needless and count - len(words) > max(1, count * _TOLERATED):
        raise contradiction
    if narrow and words.max() > 255:
        raise contradiction
    return words


def bits_of(found: UInt16Array) -> int:
    """The number of bits that the entries have, whatever is declared: some writers scale 8-bit
    entries to words and still declare 8, others declare the 16 of the words for 12-bit entries."""
    return max(1, int(found.max()).bit_length())


def _words(data: object, name: str, *, little_endian: bool) -> tuple[UInt16Array, int]:
    """The whole words of ``data``, and how many bytes it has."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], _word(little_endian)).astype(np.uint16)
        return words, len(data)
    try:
        numbers = [] if data is None or data == "" else data
        words = (np.atleast_1d(np.asarray(numbers, dtype=np.int64)) & 0xFFFF).astype(np.uint16)
    except (TypeError, ValueError, OverflowError):
        raise UnusableTableError(f"{name} is not a list of numbers.") from None
    return words, 2 * len(words)


def _bytes_after_all(words: UInt16Array, kind: Descriptor) -> bool:
    """Whether words that exceed 8 bits are twice as many 8-bit entries: their second half is empty,
    or the bytes are as smooth a curve as the words. 8-bit values scaled to words are such a curve,
    too, but both bytes of each are equal, and the table covers all inputs."""
    if not words[(len(words) + 1) // 2 :].any():
        return True
    if kind.first + kind.count > kind.inputs[1] and (words >> 8 == words & 0xFF).all():
        return False
    return not _words_after_all(words.astype("<u2").view(np.uint8), words)


def _words_after_all(packed: npt.NDArray[np.uint8], words: UInt16Array) -> bool:
    """Whether 8-bit entries are half as many 16-bit ones: the high bytes of all words are zero, or
    low and high bytes alternate, so that the curve of the bytes jumps up and down and that of the
    words does not."""
    if not (words >> 8).any() and words.any():
        return True
    jumps = np.abs(np.diff(packed.astype(np.int64))).sum() / 255
    as_words = np.abs(np.diff(words.astype(np.int64))).sum() / 65535
    return bool(jumps > 4 * as_words + 1)


def _word(little_endian: bool) -> str:
    return "<u2" if little_endian else ">u2"
