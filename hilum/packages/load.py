"""Seal, verify, pack and load model packages.

A package is trusted as a whole or not at all: it is used only after the sha256 of every file has
been compared with the manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from pydantic import ValidationError

from hilum import errors
from hilum.errors.validation import problems
from hilum.files import locked, write_atomically
from hilum.packages import signing
from hilum.packages.manifest import MANIFEST, SIGNATURE, Manifest
from hilum.packages.source import (
    MAX_MANIFEST_BYTES,
    MAX_PACKAGE_BYTES,
    Source,
    StoreFolder,
    open_archive,
    write_archive,
)
from hilum.settings import Settings
from hilum.storage import ObjectStore

_UNLISTED: Final = {MANIFEST, SIGNATURE}


@dataclass(frozen=True)
class Package:
    """A verified package: ``folder`` holds exactly the files that ``manifest`` lists."""

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The model's identity: ``sha256:<64 hex digits>``."""
        return self.manifest.digest

    def read(self, name: str) -> bytes:
        """Read one listed file, and check its sha256 again.

        Engines read their graph with this method, so a file that was replaced after
        :func:`verify` is not run.

        Raises:
            PackageDigestError: the file is missing, or does not match the manifest any more.
        """
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise errors.PackageDigestError(f"{name} cannot be read: {error.strerror}.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise errors.PackageDigestError(f"The sha256 of {name} differs from the manifest.")
        return data


def seal(folder: Path, **fields: Any) -> Manifest:
    """Make a package of the files in ``folder``: hash them and write ``manifest.json``.

    Args:
        folder: holds every file of the package but the manifest. A manifest from an earlier call
            is replaced. Hidden files are not part of a package.
        fields: the fields of :class:`hilum.packages.manifest.Manifest`, without ``files`` and
            ``format``.

    Raises:
        PackageSchemaError: a field or a required file is missing, or a field is invalid.
        UnknownBackboneError: hilum does not know the backbone.
    """
    files = {name: _sha256(folder / name) for name in _names(folder) if name not in _UNLISTED}
    try:
        manifest = Manifest(**fields, files=files)
    except ValidationError as error:
        raise _schema_error(error) from None
    (folder / SIGNATURE).unlink(missing_ok=True)  # it signed the previous manifest
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def pack(package: Package, target: Path) -> None:
    """Write ``package`` as one zip archive, completely or not at all. The same package always gives
    the same bytes."""
    with TemporaryDirectory(dir=target.parent, prefix=".zip.") as scratch:
        archive = Path(scratch) / "package.zip"
        names = [MANIFEST, *package.manifest.files]
        if (package.folder / SIGNATURE).is_file():
            names.append(SIGNATURE)
        write_archive(package.folder, names, archive)
        archive.replace(target)


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate a manifest.

    Raises:
        PackageSchemaError: ``data`` is not JSON, has another format, or contradicts itself. The
            detail names the fields, never their values.
        UnknownBackboneError: hilum does not know the backbone.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise errors.PackageSchemaError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes.")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise _schema_error(error) from None


def load(location: str, *, store: ObjectStore, cache_dir: Path) -> Package:
    """Load and verify the package at ``location``.

    Args:
        location: a folder, a zip archive, or either of them in S3: ``s3://bucket/prefix`` or
            ``s3://bucket/key.zip``.
        store: reads ``s3://`` locations.
        cache_dir: archives and packages from S3 are unpacked below it, under the package's digest.
            All processes of this machine share it.

    Raises:
        PackageMissingError, PackageDigestError, PackageSchemaError, UnknownBackboneError: the
            package is not valid, see :func:`verify`.
        PackageError: the archive is not a readable zip file, or the package is too large.
        ConfigurationError: ``cache_dir`` cannot be written.
        StorageUnavailableError, CredentialsRejectedError, AccessDeniedError: the store failed.
    """
    remote = location.startswith("s3://")
    if remote and not location.endswith(".zip"):
        return _load_cached(StoreFolder(store, location), cache_dir)
    if remote:
        with _cache_errors(), TemporaryDirectory(dir=_home(cache_dir), prefix=".zip.") as scratch:
            archive = Path(scratch) / "package.zip"
            try:
                store.download(location, archive, max_bytes=MAX_PACKAGE_BYTES)
            except errors.ObjectMissingError:
                raise errors.PackageMissingError(
                    "There is no archive at the s3:// address."
                ) from None
            except errors.ObjectTooLargeError as error:
                raise errors.PackageError(error.detail) from None
            return _load_archive(archive, cache_dir)
    path = Path(location)
    if path.is_dir():
        return verify(path)
    if path.is_file():
        return _load_archive(path, cache_dir)
    raise errors.PackageMissingError(f"There is no folder or archive {location}.")


def _load_archive(path: Path, cache_dir: Path) -> Package:
    with open_archive(path) as archive:
        manifest = parse_manifest(archive.manifest())
        _check_names(manifest, archive.names)
        return _load_cached(archive, cache_dir)


def _load_cached(source: Source, cache_dir: Path) -> Package:
    """Load the package from the cache. If it is new or damaged there, fetch it from ``source``."""
    data = source.manifest()
    manifest = parse_manifest(data)
    with _cache_errors():
        folder = _home(cache_dir) / manifest.digest.removeprefix("sha256:")
        with locked(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                try:
                    found = verify(folder)
                    _fetch_signature(source, folder, data)  # it may have been signed since
                    return found
                except errors.PackageError:
                    shutil.rmtree(folder)
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed here
            partial.mkdir()
            try:
                (partial / MANIFEST).write_bytes(data)
                for name in manifest.files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    source.fetch(name, partial / name)
                _fetch_signature(source, partial, data)
                verify(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return Package(folder, manifest)


def _fetch_signature(source: Source, folder: Path, manifest: bytes) -> None:
    """Copy the signature of ``source``, if there is one, to ``folder``, together with the manifest:
    the signature covers its bytes, and the same manifest can be written in several ways."""
    part = folder / f".{SIGNATURE}"
    try:
        source.fetch(SIGNATURE, part)
    except errors.PackageDigestError:
        part.unlink(missing_ok=True)
        return
    write_atomically(folder / MANIFEST, manifest)
    part.replace(folder / SIGNATURE)


def _home(cache_dir: Path) -> Path:
    home = cache_dir / "packages"
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.ConfigurationError(
            f"HILUM_CACHE_DIR cannot be used: {error.strerror}."
        ) from None


def verify(folder: Path) -> Package:
    """Verify the package in ``folder``: check the manifest and hash every file.

    Raises:
        PackageMissingError: there is no ``manifest.json``.
        PackageDigestError: a file is missing, changed, or not listed in the manifest.
        PackageSchemaError, UnknownBackboneError: see :func:`parse_manifest`.
    """
    try:
        manifest = parse_manifest(_manifest_bytes(folder))
    except OSError as error:
        raise errors.PackageMissingError(f"{MANIFEST} cannot be read: {error.strerror}.") from None
    _check_names(manifest, set(_names(folder)))
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise errors.PackageDigestError(f"The sha256 of {name} differs from the manifest.")
    return Package(folder, manifest)


def check_signature(package: Package, settings: Settings) -> signing.Signer | None:
    """Return the trusted signer of ``package``, or ``None`` if HILUM_TRUSTED_SIGNERS is not set.

    The signature covers the bytes of the manifest, so the file is read again. It must have the same
    content as the manifest in use; otherwise it was replaced in between.

    Raises:
        PackageUnsignedError, PackageSignatureError: no trusted signer signed the package.
        ConfigurationError: the file of trusted signers cannot be used.
    """
    if settings.trusted_signers is None:
        return None
    try:
        message = _manifest_bytes(package.folder)
    except OSError as error:
        raise errors.PackageSignatureError(
            f"{MANIFEST} cannot be read: {error.strerror}."
        ) from None
    signer = signing.require(package.folder, SIGNATURE, message, settings.trusted_signers)
    if parse_manifest(message).digest != package.digest:
        raise errors.PackageSignatureError(
            f"{MANIFEST} was replaced after the package was verified."
        )
    return signer


def _manifest_bytes(folder: Path) -> bytes:
    """Read the manifest, at most one byte more than is allowed."""
    with (folder / MANIFEST).open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _check_names(manifest: Manifest, present: set[str]) -> None:
    """Check that the package holds the manifest and exactly the files that it lists."""
    if missing := set(manifest.files) - present:
        raise errors.PackageDigestError(f"The package lacks {', '.join(sorted(missing))}.")
    if extra := present - set(manifest.files) - _UNLISTED:
        raise errors.PackageDigestError(f"The manifest does not list {', '.join(sorted(extra))}.")


def _names(folder: Path) -> Iterator[str]:
    """Relative paths, with slashes, of all files below ``folder`` that are not hidden."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise errors.PackageDigestError(f"{path.name} cannot be read: {error.strerror}.") from None


def _schema_error(error: ValidationError) -> errors.PackageSchemaError:
    return errors.PackageSchemaError(f"{MANIFEST}: {problems(error)}.")
