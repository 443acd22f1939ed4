"""The protocol that every kind of store implements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from hilum.errors import ObjectTooLargeError

CHUNK: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Stat:
    """The metadata of an object."""

    version: str = field(repr=False)  # changes with the content: ETag, version id and size
    etag: str = field(repr=False)
    modified: datetime
    size: int  # bytes
    # Request parameters that give another object the same encryption.
    encryption: Mapping[str, str | bool] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object as a listing names it."""

    uri: str = field(repr=False)
    etag: str | None = field(repr=False)  # None: the listing does not say
    size: int | None  # bytes


class Backend(Protocol):
    """One kind of store. Its addresses have no scheme. Errors: see ``ObjectStore.read``."""

    def chunks(
        self,
        address: str,
        limit: int,
        *,
        etag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        """Yield the content of the object in chunks. Raises at once if its declared size is over
        ``limit`` bytes, or if its ETag is not ``etag``. Calls ``told`` with the ETag, if any."""
        ...

    def addresses(self, address: str) -> Iterator[str]:
        """Yield the object ``address`` and those in the folder ``address``, in a stable order."""
        ...

    def write(self, address: str, data: bytes) -> None:
        """Write ``data`` to ``address`` atomically."""
        ...


def check_size(size: int, limit: int) -> None:
    """Raise ``ObjectTooLargeError`` if ``size`` is over ``limit`` (bytes)."""
    if size > limit:
        raise ObjectTooLargeError(f"The object is larger than the limit of {limit} bytes.")
