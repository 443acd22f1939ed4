"""The store of local files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from hilum import errors
from hilum.files import write_atomically
from hilum.storage.backend import CHUNK, check_size


class LocalFiles:
    """Local files. An address is a path."""

    def chunks(
        self,
        address: str,
        limit: int,
        *,
        etag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        try:
            with open(address, "rb", opener=_open_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise errors.InvalidURIError("The path is not a regular file.")
                check_size(status.st_size, limit)
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            _raise(error)

    def addresses(self, address: str) -> Iterator[str]:
        path = Path(address)
        if path.is_dir():
            yield from self._below(address)
        elif path.exists():
            yield address

    def _below(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                visible = sorted(
                    (e for e in entries if not e.name.startswith(".")), key=lambda e: e.name
                )
        except OSError:
            yield folder
            return
        for entry in visible:
            # Links to folders are not followed: they may form loops.
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(entry.path)
            elif not entry.is_dir():
                yield entry.path

    def write(self, address: str, data: bytes) -> None:
        try:
            write_atomically(Path(address), data)
        except OSError as error:
            _raise(error)


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe without a writer would hang.
    return os.open(path, flags | os.O_NONBLOCK)


def _raise(error: OSError) -> NoReturn:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise errors.ObjectMissingError(
            "The file does not exist.", next_step="Check the path."
        ) from None
    if isinstance(error, PermissionError):
        raise errors.AccessDeniedError(
            "This user may not read or write the file.", next_step="Check the file's permissions."
        ) from None
    if isinstance(error, IsADirectoryError):
        raise errors.InvalidURIError("The path is a folder, not a file.") from None
    raise errors.StorageUnavailableError(
        f"The file system failed: {error.strerror}.", next_step="Check the disk and its mounts."
    ) from None
