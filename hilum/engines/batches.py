"""The batch sizes a GPU meets: few, so that each has been run before a film waits for it."""

from __future__ import annotations


def buckets(largest: int) -> tuple[int, ...]:
    """The batch sizes that run: powers of two, and the largest."""
    return (*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest)


def bucket(count: int, largest: int) -> int:
    """The smallest of :func:`buckets` that takes ``count`` images, at most ``largest``."""
    return next(size for size in buckets(largest) if size >= count)
