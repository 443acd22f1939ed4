"""Where the files of a package come from when it is not a local folder.

A source only hands out bytes; whether they may be trusted is judged in :mod:`hilum.packages.load`.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from hilum.errors import (
    ObjectMissingError,
    ObjectTooLargeError,
    PackageDigestError,
    PackageError,
    PackageMissingError,
)
from hilum.packages.manifest import MANIFEST
from hilum.storage import ObjectStore

MAX_MANIFEST_BYTES: Final = 2**20
MAX_PACKAGE_BYTES: Final = 4 * 2**30  # an ONNX file has at most 2 GiB

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


class Source(Protocol):
    """The files of one package."""

    def manifest(self) -> bytes:
        """``manifest.json``; ``PackageMissingError`` if there is none."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Put the file ``name`` at ``target``; ``PackageDigestError`` if there is none."""
        ...


class StoreFolder:
    """A package kept as objects below one prefix. Others below it are not looked at."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._left = MAX_PACKAGE_BYTES

    def manifest(self) -> bytes:
        """See :class:`Source`."""
        try:
            return self._store.read(f"{self._prefix}/{MANIFEST}", max_bytes=MAX_MANIFEST_BYTES)
        except ObjectMissingError:
            raise PackageMissingError(f"There is no {MANIFEST} at that address.") from None
        except ObjectTooLargeError as error:
            raise PackageError(error.detail) from None

    def fetch(self, name: str, target: Path) -> None:
        """See :class:`Source`."""
        try:
            self._store.download(f"{self._prefix}/{name}", target, max_bytes=self._left)
        except ObjectMissingError:
            raise PackageDigestError(f"The package lacks {name}.") from None
        except ObjectTooLargeError:
            raise _too_large() from None
        self._left -= target.stat().st_size


class ZipArchive:
    """A package as one zip file, its files at the top or in one folder there.

    Only files that the manifest lists are ever extracted, each to the name it has there, so
    no entry can land elsewhere. Use :func:`open_archive`.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries = {
            entry.filename: entry
            for entry in archive.infolist()
            if not entry.is_dir() and not _hidden(entry.filename)
        }
        # zipfile never inflates an entry beyond its declared size.
        if sum(entry.file_size for entry in entries.values()) > MAX_PACKAGE_BYTES:
            raise _too_large()
        manifests = [name for name in entries if name.rpartition("/")[2] == MANIFEST]
        shallow = [name for name in manifests if name.count("/") <= 1]
        if len(shallow) != 1:
            raise PackageMissingError(f"The archive holds {len(shallow)} {MANIFEST}, not one.")
        self._archive = archive
        self._entries = entries
        self._folder = shallow[0].removesuffix(MANIFEST)

    @property
    def names(self) -> set[str]:
        """Every file of the archive as the manifest would name it."""
        return {name.removeprefix(self._folder) for name in self._entries}

    def manifest(self) -> bytes:
        """See :class:`Source`."""
        with self._archive.open(self._entries[self._folder + MANIFEST]) as file:
            return file.read(MAX_MANIFEST_BYTES + 1)

    def fetch(self, name: str, target: Path) -> None:
        """See :class:`Source`."""
        entry = self._entries.get(self._folder + name)
        if entry is None:
            raise PackageDigestError(f"The package lacks {name}.")
        with self._archive.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


@contextmanager
def open_archive(path: Path) -> Iterator[ZipArchive]:
    """The package in the zip file ``path``.

    Raises:
        PackageError: not a zip file, damaged, encrypted, or over ``MAX_PACKAGE_BYTES``.
        PackageMissingError: it holds no manifest, or several.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield ZipArchive(archive)
    except _ZIP_ERRORS as error:
        raise PackageError(f"Not a readable zip archive ({type(error).__name__}).") from None


def write_archive(folder: Path, names: list[str], target: Path) -> None:
    """Write the files ``names`` of ``folder`` to the zip file ``target``.

    The same files give the same bytes. They are stored as they are: weights do not compress.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w") as file:
                shutil.copyfileobj(source, file)


def _hidden(name: str) -> bool:
    # __MACOSX is what the Finder adds to every archive it makes.
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(p.startswith(".") and p != ".." for p in parts)


def _too_large() -> PackageError:
    return PackageError(f"The package holds more than {MAX_PACKAGE_BYTES} bytes.")
