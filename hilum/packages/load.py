"""Model packages on disk: seal a folder, verify it, load it from wherever it is kept.

A package is the unit of trust. Nothing of it is used before its manifest has been read and the
sha256 of every file has been found to be the one the manifest gives.
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

from hilum.errors import (
    ConfigurationError,
    ObjectMissingError,
    ObjectTooLargeError,
    PackageDigestError,
    PackageError,
    PackageMissingError,
    PackageSchemaError,
    PackageSignatureError,
)
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
        """The content of one listed file, hashed again on the way.

        Engines take their graph from here, so that a file exchanged after :func:`verify` is
        noticed and not run.

        Raises:
            PackageDigestError: the file is gone, or no longer the one the manifest describes.
        """
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise PackageDigestError(f"{name} cannot be read: {error.strerror}.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise PackageDigestError(f"The sha256 of {name} is not the one in the manifest.")
        return data


def seal(folder: Path, **fields: Any) -> Manifest:
    """Make a package of the files in ``folder``: hash them and write ``manifest.json``.

    Args:
        folder: holds every file of the package but the manifest; one from an earlier call is
            replaced. Hidden files are not part of a package.
        fields: those of :class:`hilum.packages.manifest.Manifest`, without ``files`` and
            ``format``.

    Raises:
        PackageSchemaError: a field is missing or wrong, or a required file is not there.
        UnknownBackboneError: as its name says.
    """
    files = {name: _sha256(folder / name) for name in _names(folder) if name not in _UNLISTED}
    try:
        manifest = Manifest(**fields, files=files)
    except ValidationError as error:
        raise _schema_error(error) from None
    (folder / SIGNATURE).unlink(missing_ok=True)  # it was of the manifest before
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def pack(package: Package, target: Path) -> None:
    """Write ``package`` as one zip archive, whole or not at all; the same package gives the
    same bytes."""
    with TemporaryDirectory(dir=target.parent, prefix=".zip.") as scratch:
        archive = Path(scratch) / "package.zip"
        names = [MANIFEST, *package.manifest.files]
        if (package.folder / SIGNATURE).is_file():
            names.append(SIGNATURE)
        write_archive(package.folder, names, archive)
        archive.replace(target)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``.

    Raises:
        PackageSchemaError: not JSON, not this format, or in contradiction with itself. The
            text names the fields, never their values.
        UnknownBackboneError: as its name says.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageSchemaError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes.")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise _schema_error(error) from None


def load(location: str, *, store: ObjectStore, cache_dir: Path) -> Package:
    """The package at ``location``, verified.

    Args:
        location: a folder, a zip archive, or either of them in S3: ``s3://bucket/prefix`` or
            ``s3://bucket/key.zip``.
        store: reads ``s3://`` locations.
        cache_dir: what is not a local folder is kept below it, under the package's digest, and
            shared by all processes of this machine.

    Raises:
        PackageMissingError, PackageDigestError, PackageSchemaError, UnknownBackboneError: the
            package is refused; see :func:`verify`.
        PackageError: the archive is not a readable zip file, or the package is too large.
        ConfigurationError: ``cache_dir`` cannot be written.
        StorageUnavailableError, CredentialsRejectedError, AccessDeniedError: of the store.
    """
    remote = location.startswith("s3://")
    if remote and not location.endswith(".zip"):
        return _cached(StoreFolder(store, location), cache_dir)
    if remote:
        with _cache_errors(), TemporaryDirectory(dir=_home(cache_dir), prefix=".zip.") as scratch:
            archive = Path(scratch) / "package.zip"
            try:
                store.download(location, archive, max_bytes=MAX_PACKAGE_BYTES)
            except ObjectMissingError:
                raise PackageMissingError("There is no archive at that address.") from None
            except ObjectTooLargeError as error:
                raise PackageError(error.detail) from None
            return _from_archive(archive, cache_dir)
    path = Path(location)
    if path.is_dir():
        return verify(path)
    if path.is_file():
        return _from_archive(path, cache_dir)
    raise PackageMissingError(f"There is no folder or archive {location}.")


def _from_archive(path: Path, cache_dir: Path) -> Package:
    with open_archive(path) as archive:
        manifest = parse_manifest(archive.manifest())
        _check_names(manifest, archive.names)
        return _cached(archive, cache_dir)


def _cached(source: Source, cache_dir: Path) -> Package:
    """The package of ``source`` in the cache, put there if it is new or its copy is damaged."""
    data = source.manifest()
    manifest = parse_manifest(data)
    with _cache_errors():
        folder = _home(cache_dir) / manifest.digest.removeprefix("sha256:")
        with locked(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                try:
                    found = verify(folder)
                    _fetch_signature(source, folder, data)  # perhaps signed since
                    return found
                except PackageError:
                    shutil.rmtree(folder)
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
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
    """Put the signature of ``source`` into ``folder``, if there is one. The manifest's bytes come
    along: a signature is over bytes, and the same manifest can be written in several ways."""
    part = folder / f".{SIGNATURE}"
    try:
        source.fetch(SIGNATURE, part)
    except PackageDigestError:
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
        raise ConfigurationError(f"HILUM_CACHE_DIR cannot be used: {error.strerror}.") from None


def verify(folder: Path) -> Package:
    """The package in ``folder``, every file of it hashed.

    Raises:
        PackageMissingError: there is no ``manifest.json``.
        PackageDigestError: a file is missing, changed, or not listed in the manifest.
        PackageSchemaError, UnknownBackboneError: see :func:`parse_manifest`.
    """
    try:
        manifest = parse_manifest(_manifest_bytes(folder))
    except OSError as error:
        raise PackageMissingError(f"No readable {MANIFEST} there: {error.strerror}.") from None
    _check_names(manifest, set(_names(folder)))
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise PackageDigestError(f"The sha256 of {name} is not the one in the manifest.")
    return Package(folder, manifest)


def check_signature(package: Package, settings: Settings) -> signing.Signer | None:
    """Who signed ``package``, where ``HILUM_TRUSTED_SIGNERS`` says whom to trust; else ``None``.

    What is signed are the manifest's bytes, so the file is read again; it has to say just what the
    manifest in use says, or it was exchanged in between.

    Raises:
        PackageUnsignedError, PackageSignatureError: nobody who is trusted.
        ConfigurationError: the file of trusted signers is not usable.
    """
    if settings.trusted_signers is None:
        return None
    try:
        message = _manifest_bytes(package.folder)
    except OSError as error:
        raise PackageSignatureError(f"{MANIFEST} cannot be read: {error.strerror}.") from None
    signer = signing.require(package.folder, SIGNATURE, message, settings.trusted_signers)
    if parse_manifest(message).digest != package.digest:
        raise PackageSignatureError(f"The signed {MANIFEST} is not the one that was verified.")
    return signer


def _manifest_bytes(folder: Path) -> bytes:
    """No more than shows that it is too long."""
    with (folder / MANIFEST).open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _check_names(manifest: Manifest, present: set[str]) -> None:
    """Exactly the files that ``manifest`` lists, and itself."""
    if missing := set(manifest.files) - present:
        raise PackageDigestError(f"The package lacks {', '.join(sorted(missing))}.")
    if extra := present - set(manifest.files) - _UNLISTED:
        raise PackageDigestError(f"The manifest does not list {', '.join(sorted(extra))}.")


def _names(folder: Path) -> Iterator[str]:
    """Paths of all files below ``folder``, relative and with slashes, but for hidden ones."""
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
        raise PackageDigestError(f"{path.name} cannot be read: {error.strerror}.") from None


def _schema_error(error: ValidationError) -> PackageSchemaError:
    return PackageSchemaError(f"{MANIFEST}: {problems(error)}.")
