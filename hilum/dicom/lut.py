"""Lookup tables: Modality, VOI and palette (PS3.3 C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from hilum.errors import InconsistentPixelsError

Float64Array = npt.NDArray[np.float64]
UInt16Array = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """The three values of a LUT descriptor, as they are meant."""

    count: int
    first: int  # the input that maps to the first entry; smaller ones do too
    bits: int

    @classmethod
    def read(cls, value: Any, *, name: str, signed_input: bool, little_endian: bool) -> Descriptor:
        """Values may come as US or SS, whatever was right, or as bytes (implicit VR).

        Args:
            value: of the attribute.
            name: of the attribute and its tag, for the error.
            signed_input: the table's input can be negative.
            little_endian: the order of ``value`` if it is bytes.

        Raises:
            InconsistentPixelsError: there are not three values, or entries of no usable size.
        """
        if isinstance(value, bytes):
            value = np.frombuffer(value[: len(value) // 2 * 2], _word(little_endian)).tolist()
        if value is None or isinstance(value, int) or len(value) != 3:
            raise InconsistentPixelsError(f"{name} has not three values.")
        count, first, bits = (int(n) for n in value)
        if not 1 <= bits <= 16:
            raise InconsistentPixelsError(f"{name} says {bits} bits; expected 8 to 16.")
        first %= 1 << 16
        if signed_input and first >= 1 << 15:
            first -= 1 << 16
        return cls(count=count % (1 << 16) or 1 << 16, first=first, bits=bits)  # 0 is 65536


@dataclass(frozen=True, kw_only=True)
class Lut:
    """A lookup table."""

    first: int
    bits: int  # that hold every entry
    entries: Float64Array

    @classmethod
    def read(cls, item: Dataset, *, signed_input: bool, little_endian: bool) -> Lut:
        """The LUT of a Modality or VOI LUT Sequence item.

        Raises:
            InconsistentPixelsError: descriptor and data contradict each other.
        """
        descriptor = Descriptor.read(
            item.get("LUTDescriptor"),
            name="LUT Descriptor (0028,3002)",
            signed_input=signed_input,
            little_endian=little_endian,
        )
        found = entries(item.get("LUTData"), descriptor.count, little_endian=little_endian)
        if len(found) < descriptor.count:
            raise InconsistentPixelsError(
                f"LUT Data (0028,3006) has {len(found)} entries; its descriptor says "
                f"{descriptor.count}."
            )
        found = found[: descriptor.count]
        return cls(
            first=descriptor.first,
            bits=bits_of(found, descriptor),
            entries=found.astype(np.float64),
        )

    def apply(self, values: Float64Array) -> Float64Array:
        """Entries for ``values`` of any shape; inputs beyond the ends map to the ends."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.intp)])

    def range(self, low: float, high: float) -> tuple[float, float]:
        """The smallest and largest entry that inputs from ``low`` to ``high`` can meet."""
        ends = np.clip(np.rint([low, high]) - self.first, 0, len(self.entries) - 1).astype(int)
        reached = self.entries[ends[0] : ends[1] + 1]
        return float(reached.min()), float(reached.max())


def entries(data: object, count: int, *, little_endian: bool) -> UInt16Array:
    """LUT data, whatever value representation it was written with.

    8-bit entries may be packed two in a word (PS3.3 C.7.6.3.1.6, and many LUTs that should not).

    Raises:
        InconsistentPixelsError: it is not a list of numbers.
    """
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], _word(little_endian)).astype(np.uint16)
        if not count <= len(data) < 2 * count:
            return words
        packed = words.astype("<u2").view(np.uint8)
        return (np.append(packed, data[-1]) if len(data) % 2 else packed).astype(np.uint16)
    try:
        return (np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF).astype(np.uint16)
    except (TypeError, ValueError):
        raise InconsistentPixelsError("LUT Data (0028,3006) is not a list of numbers.") from None


def bits_of(found: UInt16Array, descriptor: Descriptor) -> int:
    """How many bits entries have: more than declared, if they need more. Some writers scale 8-bit
    entries to words and still declare 8."""
    return max(descriptor.bits, int(found.max()).bit_length())


def _word(little_endian: bool) -> str:
    return "<u2" if little_endian else ">u2"
