"""One object's bytes, held once by a process and its decoders together."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from io import BytesIO
from types import TracebackType
from typing import BinaryIO, cast

from hilum.errors import OutOfMemoryError


class SharedBytes:
    """Bytes that are written here, and read where they lie by whoever is given their descriptor.

    On Linux that is a file in memory, sealed before it is given away: nobody can change, shorten or
    extend it then. This process never maps it, so that its pages are counted once, where they are
    read. Elsewhere there is no descriptor, and the bytes have to be sent.
    """

    def __init__(self) -> None:
        self._file: BinaryIO = BytesIO()
        if sys.platform == "linux":
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self._file = cast(BinaryIO, os.fdopen(os.memfd_create("object", flags), "wb"))

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            OutOfMemoryError: there is no room for it.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise OutOfMemoryError(f"The object cannot be kept ({error.strerror}).") from None

    def sealed(self) -> tuple[int, int] | bytes:
        """The descriptor and the size; the bytes themselves where there are no descriptors.
        Nothing can be written any more."""
        if isinstance(self._file, BytesIO):
            return self._file.getvalue()
        self._file.flush()
        if sys.platform == "linux":
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)
        return self._file.fileno(), self._file.tell()

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def mapped(descriptor: int, size: int) -> memoryview:
    """The ``size`` bytes of another process's :class:`SharedBytes`; the descriptor may be closed.

    Raises:
        MemoryError: this process may not map so many.
    """
    if not size:
        return memoryview(b"")
    try:  # private: Linux before 6.7 refuses to map what is sealed against writing as shared
        return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    except OSError:
        raise MemoryError from None
