"""Find the elements of a data set, without decoding their values.

Top-level elements are found one after the other. Sequences are skipped with an explicit stack, so
neither their depth nor their content can exhaust anything. Nothing behind Pixel Data (7FE0,0010) is
read.

Some wrong structures leave no doubt about what was meant, and are read: value representations that
do not exist, items and sequences without their end, explicit elements in an implicit data set, and
implicit ones in an explicit data set (PS3.5 section 7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_has_tag, repeater_has_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from hilum.errors import LimitExceededError

Source = bytes | memoryview

UNDEFINED_LENGTH: Final = 0xFFFFFFFF  # PS3.5 section 7.1.1
PIXEL_DATA: Final = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_BLANK: Final = b" \t\r\n\x1a"  # what a transfer as text adds at the end of a file
_LITTLE_ITEM: Final = b"\xfe\xff\x00\xe0"
_LONG: Final = frozenset(code.value.encode() for code in EXPLICIT_VR_LENGTH_32)
_KNOWN: Final = frozenset(code.value.encode() for code in EXPLICIT_VR_LENGTH_16) | _LONG

_MOST: Final = 1_000_000  # elements, with those in sequences
_LONGEST: Final = 1 << 20  # bytes; longer values are not read
_LONGEST_SEQUENCE: Final = 1 << 24
_IN_ALL: Final = 1 << 26  # bytes
_LARGE: Final = "Have the sender write the image without its private data; no film has so much."


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a data set."""

    tag: int
    code: bytes | None  # value representation; None if there is none, or it does not exist
    implicit: bool
    start: int  # of its value
    length: int  # UNDEFINED_LENGTH: up to a delimiter

    @property
    def end(self) -> int:
        """The position where its value ends, if it declares its length."""
        return self.start + self.length


@dataclass(frozen=True, kw_only=True)
class Elements:
    """A data set up to Pixel Data."""

    dataset: Dataset
    end: int  # where the next element would begin
    pixel_data: Element | None
    cut: bool  # the bytes end within an element


def read(
    source: Source, start: int, *, implicit: bool, little: bool, group: int | None = None
) -> Elements:
    """Read the data set that begins at ``start``, or only its elements of ``group``.

    Raises:
        LimitExceededError: it has more elements, or larger ones, than any image has.
    """
    walk = _Walk(source, little)
    place, size, taken = start, len(source), 0
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    if (code := bytes(source[place + 4 : place + 6])) in _KNOWN:
        implicit = False
    elif implicit is False and not code.isalpha() and not walk.odd(code):
        implicit = True
    pixel_data, cut = None, False
    while place < size:
        element = walk.element(place, implicit)
        if element is None:
            rest = bytes(source[place:])
            cut = bool(rest.strip(b"\0") and rest.strip(_BLANK))
            break
        if not element.tag or (group is not None and element.tag >> 16 != group):
            break  # zeros pad a file
        if element.tag == PIXEL_DATA:
            pixel_data = element
            break
        if element.tag in {_ITEM_END, _SEQUENCE_END} and not element.length:
            place = element.start  # one end too many
            continue
        end = walk.over(element) if element.length == UNDEFINED_LENGTH else element.end
        if end is None or end > size:
            cut = walk.plain(element)
            break
        raw = _raw(source, element, end, little)
        taken += len(raw.value or b"")
        if taken > _IN_ALL:
            raise LimitExceededError(
                f"The data set has more than {_IN_ALL} bytes beside its pixels.", next_step=_LARGE
            )
        found[raw.tag] = raw
        place = end
    return Elements(dataset=Dataset(found), end=place, pixel_data=pixel_data, cut=cut)


def _raw(source: Source, element: Element, end: int, little: bool) -> RawDataElement:
    """The element as pydicom keeps it before it converts the value. Elements of undefined length
    are sequences here."""
    code, length, implicit = element.code, element.length, element.implicit
    sequence = code == b"SQ" or length == UNDEFINED_LENGTH
    value: bytes | None = None
    if end - element.start <= (_LONGEST_SEQUENCE if sequence else _LONGEST):
        value = bytes(source[element.start : end])
    if length == UNDEFINED_LENGTH:
        code = b"SQ"
        if value and (little or value.startswith(_LITTLE_ITEM)):
            little = True
        # In UN it has implicit VR whatever the data set has (PS3.5 section 6.2.2).
        implicit = implicit or (element.code == b"UN" and (value or b"")[12:14] not in _KNOWN)
    return RawDataElement(
        BaseTag(element.tag),
        None if code is None else code.decode("ascii"),
        length,
        value,
        element.start,
        implicit,
        little,
    )


class _Walk:
    """Steps from element to element of ``source``."""

    def __init__(self, source: Source, little: bool) -> None:
        self._source = source
        self._size = len(source)
        self._little = little
        self._count = 0

    def element(self, place: int, implicit: bool, little: bool | None = None) -> Element | None:
        """The element at ``place``; ``None`` if the bytes end within its header."""
        self._count += 1
        if self._count > _MOST:
            raise LimitExceededError(
                f"The data set has more than {_MOST} elements.", next_step=_LARGE
            )
        if place + 8 > self._size:
            return None
        order = "<" if (self._little if little is None else little) else ">"
        group, number = struct.unpack_from(f"{order}HH", self._source, place)
        tag, code = group << 16 | number, bytes(self._source[place + 4 : place + 6])
        if implicit or group == 0xFFFE:
            (length,) = struct.unpack_from(f"{order}I", self._source, place + 4)
            return Element(tag, None, True, place + 8, length)
        if code in _KNOWN:
            return self._explicit(place, tag, code, order, long=code in _LONG)
        return self._unknown(place, tag, code, order)

    def plain(self, element: Element) -> bool:
        """Whether ``element`` looks like an element, and not like bytes behind the last one."""
        if not 0x00080000 <= element.tag < 0xFFFE0000:
            return False
        private = bool(element.tag >> 16 & 1)
        if not element.implicit:
            return element.code is not None
        return private or dictionary_has_tag(element.tag) or repeater_has_tag(element.tag)

    @staticmethod
    def odd(code: bytes) -> bool:
        """Whether ``code`` fills the place of a value representation without being one: spaces,
        question marks, zeros."""
        return not code.strip(b" ?-\0")

    def over(self, element: Element) -> int | None:
        """Where the element after one of undefined length begins; ``None`` if the bytes end before.

        An item or sequence without its end extends to where something else begins.
        """
        little = self._little
        if bytes(self._source[element.start : element.start + 4]) == _LITTLE_ITEM:
            little = True
        stack = [(True, element.implicit or element.code == b"UN", little)]
        place = element.start
        while stack:
            items, implicit, little = stack[-1]
            found = self.element(place, implicit, little)
            if found is None:
                return None
            if found.tag == _SEQUENCE_END:
                del stack[-1 if items else -2 :]  # the item may have no end
                place = found.start
            elif found.tag == _ITEM_END:
                if not items:
                    stack.pop()
                place = found.start
            elif items:
                if found.tag != _ITEM:  # the sequence has no end
                    stack.pop()
                elif found.length == UNDEFINED_LENGTH:
                    place = found.start
                    stack.append((False, self._is_implicit(place, implicit), little))
                else:
                    place = found.end
            elif found.length == UNDEFINED_LENGTH:
                place = found.start
                stack.append((True, found.implicit or found.code == b"UN", little))
            else:
                place = found.end
        return place

    def _is_implicit(self, place: int, implicit: bool) -> bool:
        """Whether an item has implicit VR, by its first element: some writers change it there."""
        code = bytes(self._source[place + 4 : place + 6])
        if code in _KNOWN:
            return False
        return implicit or not (code.isalpha() or self.odd(code))

    def _explicit(
        self, place: int, tag: int, code: bytes | None, order: str, *, long: bool
    ) -> Element | None:
        if not long:
            (length,) = struct.unpack_from(f"{order}H", self._source, place + 6)
            return Element(tag, code, False, place + 8, length)
        if place + 12 > self._size:
            return None
        (length,) = struct.unpack_from(f"{order}I", self._source, place + 8)
        return Element(tag, code, False, place + 12, length)

    def _unknown(self, place: int, tag: int, code: bytes, order: str) -> Element | None:
        """Read an element whose value representation does not exist. Of the ways to read its
        length, the right one leads to another element. New representations have four bytes of
        length (PS3.5 section 7.1.2)."""
        ways = list(self._ways(place, tag, order, new=code.isalpha() and code.isupper()))
        for way in ways:
            if self._leads_on(way, code, order):
                return way
        return ways[0] if ways else None

    def _ways(self, place: int, tag: int, order: str, *, new: bool) -> Iterator[Element]:
        for long in (new, not new):
            if (way := self._explicit(place, tag, None, order, long=long)) is not None:
                yield way
        (length,) = struct.unpack_from(f"{order}I", self._source, place + 4)
        yield Element(tag, None, True, place + 8, length)

    def _leads_on(self, element: Element, code: bytes, order: str) -> bool:
        if element.length == UNDEFINED_LENGTH:
            item = bytes(self._source[element.start : element.start + 4])
            return item in {_LITTLE_ITEM, _LITTLE_ITEM[1::-1] + _LITTLE_ITEM[:1:-1]}
        end = element.end
        if end == self._size or end + 8 > self._size:
            return end == self._size
        group, number = struct.unpack_from(f"{order}HH", self._source, end)
        following = bytes(self._source[end + 4 : end + 6])
        if group == 0xFFFE:
            return number in {0xE000, 0xE00D, 0xE0DD}
        if (group << 16 | number) <= element.tag:
            return False
        return element.implicit or following in _KNOWN or following == code
