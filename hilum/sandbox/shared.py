"""The bytes of one object, which a process and its decode processes share."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from io import BytesIO
from typing import BinaryIO, cast

from hilum.errors import OutOfMemoryError


class SharedBytes:
    """Bytes that one process writes, and another reads in place by their descriptor.

    On Linux this is a file in memory. It is sealed before its descriptor is passed on, so nobody
    can change, shorten or extend it. This process never maps it, so its pages count only where they
    are read. Other systems have no such descriptor, and the bytes are sent instead.
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
        """End writing. Returns the descriptor and the size, or the bytes themselves where there are
        no descriptors."""
        if isinstance(self._file, BytesIO):
            return self._file.getvalue()
        self._file.flush()
        if sys.platform == "linux":
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)
        return self._file.fileno(), self._file.tell()

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def mapped(descriptor: int, size: int) -> memoryview:
    """Map the ``size`` bytes of another process's :class:`SharedBytes`. Afterwards the descriptor
    may be closed.

    Raises:
        MemoryError: this process may not map so many.
    """
    if not size:
        return memoryview(b"")
    try:  # private: Linux before 6.7 refuses a shared mapping of a sealed file
        return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    except OSError:
        raise MemoryError from None
