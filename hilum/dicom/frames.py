"""Find the bytes of the first frame, and what an enhanced object says about it.

Encapsulated pixel data (PS3.5 section A.4) consists of a Basic Offset Table, which may be empty,
and fragments. The end of a frame follows from the Extended Offset Table (PS3.3 C.7.6.3.1.8), or
else the basic one, or else the number of fragments, or else the end markers of the codestreams.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pydicom.dataset import Dataset

from hilum.errors import DecodeError, InconsistentPixelsError, TruncatedError

_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0"
_HEADER: Final = 8  # bytes: tag and length
_MARKER: Final = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")  # a codestream
_AFTER_RLE_HEADER: Final = struct.pack("<I", 64)  # where the first segment begins (PS3.5 G.5)
_PADDING: Final = 10  # bytes that may follow it
_MOST: Final = 2**16  # fragments; a film has one, or a few

# Macros of an enhanced multi-frame object, and the attributes in them (PS3.3 C.7.6.16.2).
_MACROS: Final = (
    ("PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept", "RescaleType")),
    ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTFunction")),
    ("FrameAnatomySequence", ("AnatomicRegionSequence",)),
)


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """One item of encapsulated pixel data."""

    offset: int  # of its item tag, from that of the first fragment
    start: int  # of its content, in the pixel data
    end: int


def first(data: bytes | memoryview, *, frames: int, extended: bytes | None = None) -> bytes:
    """The codestream of the first of ``frames`` frames.

    Args:
        data: the items of Pixel Data (7FE0,0010). Bytes behind the items are ignored.
        frames: Number of Frames.
        extended: the value of Extended Offset Table (7FE0,0001), if there is one.

    Raises:
        TruncatedError: the data ends within an item, or has no fragment.
        DecodeError: it is no sequence of items, or the end of the frame is not known.
        InconsistentPixelsError: there are more frames than the one that the header declares.
    """
    table, fragments = _items(data, frames)
    if frames > 1:
        fragments = fragments[: _count(data, fragments, frames, _offsets(table, extended))]
    elif any(_ends(data, one) and _starts(data, next_) for one, next_ in pairwise(fragments)):
        raise InconsistentPixelsError(
            "The pixel data has several frames; Number of Frames (0028,0008) says one."
        )
    # A slice of a single fragment copies once; a film may have 50 MB.
    if len(fragments) == 1:
        return bytes(data[fragments[0].start : fragments[0].end])
    return b"".join(data[part.start : part.end] for part in fragments)


def adopt(dataset: Dataset) -> None:
    """Copy what the functional groups of an enhanced object say about its first frame to the top
    level of ``dataset``, unless the top level has the attribute."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        group = (dataset.get(groups) or [None])[0]
        for macro, keywords in _MACROS if group is not None else ():
            item = (group.get(macro) or [None])[0]
            for keyword in keywords if item is not None else ():
                if keyword in item and keyword not in dataset:
                    setattr(dataset, keyword, item[keyword].value)


def _items(data: bytes | memoryview, frames: int) -> tuple[bytes, list[Fragment]]:
    """The Basic Offset Table and all fragments.

    The items end at their delimiter, or at other bytes after at least one fragment, because writers
    leave such bytes behind. If a fragment is missing then, the codestream has no end, and that is
    checked.
    """
    table: bytes | None = None
    fragments: list[Fragment] = []
    place = base = 0
    while place + _HEADER <= len(data):
        head = bytes(data[place : place + _HEADER])
        tag, length = head[:4], int.from_bytes(head[4:], "little")
        if tag == _END or (tag != _ITEM and fragments):
            break
        if tag != _ITEM:
            raise DecodeError(
                f"The encapsulated pixel data has no item tag (FFFE,E000) at byte {place}."
            )
        start = place + _HEADER
        if start + length > len(data):
            if len(fragments) >= frames and _ends(data, fragments[-1]):
                break
            length = _shortened(data, start, length)
        if table is None and not _is_codestream(bytes(data[start : start + 8])):
            table, base = bytes(data[start : start + length]), start + length
        else:
            table = table or b""  # a codestream in the place of the table: there is none
            fragments.append(Fragment(offset=place - base, start=start, end=start + length))
        place = start + length
        if len(fragments) > _MOST:
            raise DecodeError(f"The pixel data has more than {_MOST} fragments.")
    if not fragments and table and len(table) > 4 * frames:  # too long for a table: a codestream
        return b"", [Fragment(offset=0, start=base - len(table), end=base)]
    if not fragments:
        raise TruncatedError("The encapsulated pixel data has no fragment.")
    return table or b"", fragments


def _is_codestream(head: bytes) -> bool:
    """Whether an item that begins with ``head`` is no offset table, whose first entry is 0."""
    segments, offset = int.from_bytes(head[:4], "little"), head[4:]
    return head.startswith(_STARTS) or (0 < segments < 16 and offset == _AFTER_RLE_HEADER)


def _shortened(data: bytes | memoryview, start: int, length: int) -> int:
    """The length that is left of an item that declares more.

    Raises:
        TruncatedError: more than padding is missing.
    """
    left = len(data) - start
    if _MARKER in bytes(data[max(start, len(data) - _PADDING) :]):
        return left
    raise TruncatedError(f"An item of the pixel data declares {length} bytes; {left} are left.")


def _ends(data: bytes | memoryview, part: Fragment) -> bool:
    """Whether a codestream ends in ``part``."""
    return _MARKER in bytes(data[max(part.start, part.end - _PADDING) : part.end])


def _starts(data: bytes | memoryview, part: Fragment) -> bool:
    """Whether a codestream begins with ``part``."""
    return bytes(data[part.start : min(part.end, part.start + 8)]).startswith(_STARTS)


def _offsets(table: bytes, extended: bytes | None) -> tuple[int, ...]:
    """The offsets of the frames; empty if there is no table."""
    if extended:
        return struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
    return struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])


def _count(
    data: bytes | memoryview, fragments: list[Fragment], frames: int, offsets: tuple[int, ...]
) -> int:
    """The number of fragments of the first of several frames. A table that does not fit the
    fragments is ignored."""
    if len(offsets) == frames and offsets[0] == 0:
        for n, fragment in enumerate(fragments):
            if n and fragment.offset == offsets[1]:
                return n
    if len(fragments) == frames:
        return 1
    if len(fragments) > frames:
        for n, part in enumerate(fragments, 1):
            if _ends(data, part):
                return n
    which = f"an offset table of {len(offsets)} entries that do not fit" if offsets else "no table"
    raise DecodeError(f"There are {len(fragments)} fragments for {frames} frames, and {which}.")
