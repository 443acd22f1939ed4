"""Read the files of a package from S3 or from a zip archive.

A source only returns bytes. :mod:`hilum.packages.load` checks whether they can be trusted.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from hilum import errors
from hilum.packages.manifest import MANIFEST
from hilum.storage import ObjectStore

MAX_MANIFEST_BYTES: Final = 2**20
MAX_PACKAGE_BYTES: Final = 4 * 2**30  # a single ONNX file has at most 2 GiB

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)


class Source(Protocol):
    """The files of one package."""

    def manifest(self) -> bytes:
        """Read ``manifest.json``. Raises ``PackageMissingError`` if there is none."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Copy the file ``name`` to ``target``. Raises ``PackageDigestError`` if there is none."""
        ...


class StoreFolder:
    """A package kept as objects below one prefix. Objects not in the manifest are ignored."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix.rstrip("/")
        self._left = MAX_PACKAGE_BYTES

    def manifest(self) -> bytes:
        """See :class:`Source`."""
        try:
            return self._store.read(f"{self._prefix}/{MANIFEST}", max_bytes=MAX_MANIFEST_BYTES)
        except errors.ObjectMissingError:
            raise errors.PackageMissingError(
                f"There is no {MANIFEST} at the s3:// address."
            ) from None
        except errors.ObjectTooLargeError as error:
            raise errors.PackageError(error.detail) from None

    def fetch(self, name: str, target: Path) -> None:
        """See :class:`Source`."""
        try:
            self._store.download(f"{self._prefix}/{name}", target, max_bytes=self._left)
        except errors.ObjectMissingError:
            raise errors.PackageDigestError(f"The package lacks {name}.") from None
        except errors.ObjectTooLargeError:
            raise _too_large() from None
        self._left -= target.stat().st_size


class ZipArchive:
    """A package as one zip file, with its files at the top level or in one folder.

    Only files that the manifest lists are extracted, under the names that it gives them, so no
    entry can be written elsewhere. Open one with :func:`open_archive`.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries = {
            entry.filename: entry
            for entry in archive.infolist()
            if not entry.is_dir() and not _is_hidden(entry.filename)
        }
        # zipfile never decompresses an entry beyond its declared size.
        if sum(entry.file_size for entry in entries.values()) > MAX_PACKAGE_BYTES:
            raise _too_large()
        manifests = [name for name in entries if name.rpartition("/")[2] == MANIFEST]
        shallow = [name for name in manifests if name.count("/") <= 1]
        if len(shallow) != 1:
            raise errors.PackageMissingError(
                f"The archive has {len(shallow)} {MANIFEST}; one is needed."
            )
        self._archive = archive
        self._entries = entries
        self._folder = shallow[0].removesuffix(MANIFEST)

    @property
    def names(self) -> set[str]:
        """The names of all files in the archive, as a manifest would give them."""
        return {name.removeprefix(self._folder) for name in self._entries}

    def manifest(self) -> bytes:
        """See :class:`Source`."""
        with self._archive.open(self._entries[self._folder + MANIFEST]) as file:
            return file.read(MAX_MANIFEST_BYTES + 1)

    def fetch(self, name: str, target: Path) -> None:
        """See :class:`Source`."""
        entry = self._entries.get(self._folder + name)
        if entry is None:
            raise errors.PackageDigestError(f"The package lacks {name}.")
        with self._archive.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


@contextmanager
def open_archive(path: Path) -> Iterator[ZipArchive]:
    """Open the package in the zip file ``path``.

    Raises:
        PackageError: the file is not a zip file, damaged, encrypted, or too large.
        PackageMissingError: it has no manifest, or several.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield ZipArchive(archive)
    except _ZIP_ERRORS as error:
        raise errors.PackageError(
            f"The zip archive cannot be read ({type(error).__name__})."
        ) from None


def write_archive(folder: Path, names: list[str], target: Path) -> None:
    """Write the files ``names`` of ``folder`` to the zip file ``target``.

    The same files give the same bytes. They are not compressed, because weights do not compress.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w") as file:
                shutil.copyfileobj(source, file)


def _is_hidden(name: str) -> bool:
    # The Finder of macOS adds a folder __MACOSX to every archive.
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(p.startswith(".") and p != ".." for p in parts)


def _too_large() -> errors.PackageError:
    return errors.PackageError(
        f"The package is larger than the limit of {MAX_PACKAGE_BYTES} bytes."
    )
