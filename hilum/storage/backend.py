"""What a kind of store has to be able to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from hilum.errors import ObjectTooLargeError

CHUNK: Final = 2**20


class Backend(Protocol):
    """One kind of store. An address is what follows the scheme. Errors: see ``ObjectStore``."""

    def chunks(self, address: str, limit: int) -> Iterator[bytes]:
        """The object's content in pieces; refused at once if its declared size is over
        ``limit`` bytes."""
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
