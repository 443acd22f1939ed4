"""PALETTE COLOR: each stored value means a red, a green and a blue (PS3.3 C.7.6.3.1.5-6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from hilum.dicom import lut
from hilum.dicom.greyscale import LUT_SHORT, StoredValues, stored_range
from hilum.dicom.header import FilmHeader
from hilum.dicom.lut import Descriptor
from hilum.dicom.syntaxes import little_endian
from hilum.errors import InconsistentPixelsError

UInt16Array = npt.NDArray[np.uint16]

_COLOURS: Final = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2
_MOST_PARTS: Final = 6 * 65536  # every entry costs at most one indirect segment


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The three tables of a PALETTE COLOR image. They have one length."""

    first: int  # the stored value of the first entry; smaller ones map to it too
    bits: int
    entries: UInt16Array = field(repr=False)  # [count, 3], R, G, B
    flags: tuple[str, ...] = ()  # what was mended

    @classmethod
    def read(cls, dataset: Dataset, header: FilmHeader) -> Palette:
        """The Palette Color Lookup Table module (PS3.3 C.7.9).

        Raises:
            InconsistentPixelsError: a table is missing or broken, or they differ in kind.
        """
        order, inputs = little_endian(header.transfer_syntax), stored_range(header)
        descriptors, columns = [], []
        for colour in _COLOURS:
            descriptor = Descriptor.read(
                dataset.get(f"{colour}PaletteColorLookupTableDescriptor"),
                name=f"{colour} Palette Color Lookup Table Descriptor (0028,110x)",
                inputs=inputs,
                little_endian=order,
            )
            descriptors.append(descriptor)
            columns.append(_entries(dataset, colour, descriptor))
        if len(set(descriptors)) != 1:
            raise InconsistentPixelsError("The palette's three descriptors (0028,110x) differ.")
        kind, least = descriptors[0], min(len(column) for column in columns)
        # The last entry stands for missing ones.
        whole = [np.pad(column, (0, kind.count - len(column)), mode="edge") for column in columns]
        entries = np.stack(whole, axis=-1)
        needed = lut.bits_of(entries)
        return cls(
            first=kind.first,
            bits=8 if needed <= 8 else max(kind.bits, needed),  # 8 bits in words, declared as 16
            entries=entries,
            flags=(LUT_SHORT,) if least < kind.count and inputs[1] - kind.first >= least else (),
        )

    def apply(self, stored: StoredValues) -> UInt16Array:
        """R, G, B of ``stored`` ``[H, W]``: ``[H, W, 3]``."""
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index])


def _entries(dataset: Dataset, colour: str, kind: Descriptor) -> UInt16Array:
    """The table of one colour, plain or segmented."""
    plain = dataset.get(f"{colour}PaletteColorLookupTableData")
    segmented = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
    if plain:
        name = f"{colour} Palette Color Lookup Table Data (0028,120x)"
        return lut.entries(plain, kind, name=name)
    if segmented:
        found = _expand(segmented, kind)
        if len(found) < kind.count:
            raise InconsistentPixelsError(
                f"The {colour} palette has {len(found)} entries; its descriptor says {kind.count}."
            )
        return found[: kind.count]
    raise InconsistentPixelsError(
        f"There is no {colour} Palette Color Lookup Table Data (0028,120x or 122x)."
    )


def _expand(data: object, kind: Descriptor) -> UInt16Array:
    """Expand segments (PS3.3 C.7.9.2) to at most as many entries as the descriptor says."""
    if not isinstance(data, bytes):
        raise InconsistentPixelsError("The segmented palette (0028,122x) is not bytes.")
    # The parts of a segment are as wide as the entries: 8 bits or 16.
    width = 1 if kind.bits <= 8 else 2
    words = data[: 2 * (_MOST_PARTS * width // 2)]
    if width == 1 and not kind.little_endian:  # bytes in words, each pair swapped
        words = np.frombuffer(words[: len(words) // 2 * 2], ">u2").astype("<u2").tobytes()
    order = "u1" if width == 1 else "<u2" if kind.little_endian else ">u2"
    parts: list[int] = np.frombuffer(words[: len(words) // width * width], order).tolist()
    table: list[int] = []
    starts: set[int] = set()  # where segments begin: indirect ones may name only these
    at = 0
    try:
        while at + 1 < len(parts) and len(table) < kind.count:
            if parts[at] != _INDIRECT:
                starts.add(at)
                at = _segment(parts, at, table, kind.count)
                continue
            # A count, and the byte offset of the first segment to copy, its low part first.
            size = 4 // width
            offset = sum(part << 8 * width * n for n, part in enumerate(parts[at + 2 :][:size]))
            source = offset // width
            for _ in range(parts[at + 1]):
                if source not in starts or len(table) == kind.count:
                    break
                source = _segment(parts, source, table, kind.count)
            at += 2 + size
    except (IndexError, ValueError):
        raise InconsistentPixelsError("The segmented palette (0028,122x) is broken.") from None
    return np.array(table, dtype=np.uint16)


def _segment(parts: list[int], at: int, table: list[int], limit: int) -> int:
    """Append a discrete or linear segment to ``table``, and return where the next one begins."""
    kind, count = parts[at], parts[at + 1]
    if count == 0:  # otherwise a small table could take very long
        raise ValueError
    if kind == _DISCRETE:
        values = parts[at + 2 : at + 2 + count]
        if len(values) < count:
            raise IndexError
        table.extend(values[: limit - len(table)])
        return at + 2 + count
    if kind != _LINEAR or not table:  # a line starts from the entry before it
        raise ValueError
    start, end = table[-1], parts[at + 2]
    line = np.rint(start + (end - start) * np.arange(1, count + 1) / count)
    table.extend(line.astype(int).tolist()[: limit - len(table)])
    return at + 3
