"""What a kind of store has to be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from hilum.errors import ObjectTooLargeError

CHUNK: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Stat:
    """What a store says of an object without giving it."""

    version: str = field(repr=False)  # changes with the content: ETag, version id and size
    etag: str = field(repr=False)
    modified: datetime
    size: int  # bytes
    # Request headers that give a copy the same encryption.
    encryption: Mapping[str, str | bool] = field(repr=False)


class Backend(Protocol):
    """One kind of store. An address is what follows the scheme. Errors: see ``ObjectStore``."""

    def chunks(
        self,
        address: str,
        limit: int,
        *,
        etag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        """The object's content in pieces; refused at once if its declared size is over ``limit``
        bytes, or if it no longer is the one of ``etag``. ``told`` is given the ETag, if
        the store has one."""
        ...

    def addresses(self, address: str) -> Iterator[str]:
        """The object at ``address`` and those in the folder ``address``, in a stable order."""
        ...

    def write(self, address: str, data: bytes) -> None:
        """Put the whole of ``data`` there, or nothing."""
        ...


def check_size(size: int, limit: int) -> None:
    """Raise ``ObjectTooLargeError`` if ``size`` is over ``limit`` (bytes)."""
    if size > limit:
        raise ObjectTooLargeError(f"The object has more than the {limit} bytes allowed.")
