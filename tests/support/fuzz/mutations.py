"""A whole file becomes a broken one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator
_SIZES = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_STARTS = (b"\xff\x4f\xff\x51", b"\xff\xd8\xff", b"\xfe\xff\x00\xe0", b"IHDR", b"\xe0\x7f\x10\x00")
_CODES = (b"OB", b"OW", b"UN", b"SQ", b"UL", b"US", b"DS", b"PN", b"??", b"\0\0", b"OV", b"UT")


def mutated(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """``data`` after one to four changes."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if len(changed) < 16:
            break
        _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](changed, rng, others)
    return bytes(changed)


def _place(data: bytearray, rng: Rng) -> int:
    """Anywhere; more often in a header or just behind where a codestream begins."""
    kind = rng.random()
    if kind < 0.35:
        return int(rng.integers(min(len(data), 1500)))
    if kind < 0.75:
        at = data.find(_STARTS[int(rng.integers(len(_STARTS)))])
        if at >= 0:
            return min(len(data) - 1, at + int(rng.integers(0, 120)))
    return int(rng.integers(len(data)))


def _flip_bits(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    for _ in range(int(rng.integers(1, 24))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _set_size(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    value = _SIZES[int(rng.integers(len(_SIZES)))]
    order, width = "<>"[int(rng.integers(2))], int(rng.integers(2))
    packed = struct.pack(order + "HI"[width], value & (0xFFFF, 0xFFFFFFFF)[width])
    at = _place(data, rng)
    data[at : at + len(packed)] = packed


def _overwrite(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    at, length = _place(data, rng), int(rng.integers(1, 64))
    same = rng.random() < 0.3
    data[at : at + length] = bytes(length) if same else rng.bytes(length)


def _cut(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    if rng.random() < 0.3:  # most of what is cut is refused before anything is decoded
        del data[max(1, int(len(data) * rng.random())) :]


def _drop(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    at, length = _place(data, rng), int(rng.integers(1, 40))
    if at + length < len(data):
        data += bytes(length)
    del data[at : at + length]


def _repeat(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    at, length = _place(data, rng), int(rng.integers(1, 200))
    data[at:at] = data[at : at + length] * int(rng.integers(1, 6))


def _splice(data: bytearray, rng: Rng, others: Sequence[bytes]) -> None:
    other = others[int(rng.integers(len(others)))]
    at, there = _place(data, rng), _place(bytearray(other), rng)
    length = int(rng.integers(8, 4000))
    data[at : at + length] = other[there : there + length]


def _change_code(data: bytearray, rng: Rng, _others: Sequence[bytes]) -> None:
    """Another value representation where one may stand."""
    for _ in range(20):
        at = _place(data, rng)
        if data[at : at + 2].isalpha() and data[at : at + 2].isupper():
            data[at : at + 2] = _CODES[int(rng.integers(len(_CODES)))]
            return


_MUTATIONS: Sequence[Callable[[bytearray, Rng, Sequence[bytes]], None]] = (
    _flip_bits,
    _set_size,
    _set_size,
    _overwrite,
    _cut,
    _drop,
    _repeat,
    _splice,
    _change_code,
)
