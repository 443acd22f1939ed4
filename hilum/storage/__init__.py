"""Read and write objects by address: ``s3://bucket/key`` and, where allowed, local files.

All failures are raised as hilum's own errors, transient or permanent. Their texts contain no
address, because keys may contain patient data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hilum.errors import InvalidURIError
from hilum.settings import Limits, S3Settings
from hilum.storage.backend import Backend, Listed, Stat, check_size
from hilum.storage.local import LocalFiles
from hilum.storage.s3 import S3

__all__ = ["Listed", "ObjectStore", "Stat", "open_store"]


class ObjectStore:
    """Reads and writes objects. Can be shared between threads, and pickled for ``spawn``."""

    def __init__(self, s3: S3Settings, limits: Limits, *, allow_local: bool) -> None:
        self._settings, self._limits = s3, limits
        self._reopen = partial(ObjectStore, allow_local=allow_local)
        self._s3 = S3(s3)
        self._local: Backend | None = LocalFiles() if allow_local else None

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, (self._settings, self._limits)

    def read(self, uri: str, *, max_bytes: int | None = None, etag: str | None = None) -> bytes:
        """Read the content of one object.

        Args:
            uri: ``s3://bucket/key``, or a path or ``file://`` URI where local files are allowed.
            max_bytes: limit to use instead of ``Limits.max_object_bytes``.
            etag: the ETag from :meth:`stat` that the object in S3 must still have.

        Raises:
            InvalidURIError: the address is malformed, or not allowed here.
            ObjectMissingError, AccessDeniedError: the object does not exist or cannot be read.
            ObjectTooLargeError: the declared size or the content is larger than the limit.
            ObjectChangedError: the object has another ETag than ``etag``.
            CredentialsRejectedError, StorageUnavailableError: the store failed (transient).
        """
        whole = BytesIO()  # chunks in a list would be there twice when they are joined
        self.read_into(whole.write, uri, max_bytes=max_bytes, etag=etag)
        return whole.getvalue()

    def read_into(
        self,
        write: Callable[[bytes], object],
        uri: str,
        *,
        max_bytes: int | None = None,
        etag: str | None = None,
    ) -> str | None:
        """As :meth:`read`, piece by piece, each of which is given to ``write``.

        Returns:
            The object's ETag; ``None`` of a local file.
        """
        etags: list[str] = []
        for chunk in self._chunks(uri, max_bytes, etag, told=etags.append):
            write(chunk)
        return etags[0] if etags else None

    def download(self, uri: str, target: Path, *, max_bytes: int | None = None) -> None:
        """Like :meth:`read`, but write to the file ``target``, one chunk at a time."""
        with target.open("wb") as file:
            self.read_into(file.write, uri, max_bytes=max_bytes)

    def iter_uris(self, prefix: str) -> Iterator[str]:
        """Yield the address of every object at or below ``prefix``, in a stable order.

        ``prefix`` is one object or a folder: ``s3://bucket/a`` means the object ``a`` and those
        below ``a/``, never ``ab``. Hidden objects are left out: those where the name, or the name
        of a folder below ``prefix``, begins with a dot. A local folder that cannot be listed is
        yielded itself, so that reading it raises the reason and the other objects go on.

        Raises:
            HilumError: see :meth:`read`. If there is no object, nothing is yielded.
        """
        backend, address = self._resolve(prefix)
        scheme = "s3://" if backend is self._s3 else ""
        for found in backend.addresses(address):
            yield scheme + found

    def write(self, uri: str, data: bytes) -> None:
        """Write ``data`` to ``uri`` atomically, replacing the object if it exists.

        Raises:
            HilumError: see :meth:`read`.
        """
        backend, address = self._resolve(uri)
        backend.write(address, data)

    def stat(self, uri: str) -> Stat | None:
        """The metadata of an object in S3, or ``None`` for a local file.

        Raises:
            HilumError: see :meth:`read`.
        """
        backend, address = self._resolve(uri)
        return self._s3.stat(address) if backend is self._s3 else None

    def start(self, uri: str, length: int) -> tuple[bytes, str, int]:
        """The first ``length`` bytes of an object in S3, its ETag, and the size of the object.

        Raises:
            HilumError: see :meth:`read`.
        """
        return self._s3.start(self._in_s3(uri), length)

    def listed(self, prefix: str, *, after: str | None = None) -> Iterator[Listed]:
        """The objects of a folder in S3, hidden ones left out, in a stable order.

        Args:
            prefix: the folder.
            after: the address behind which to begin.

        Raises:
            HilumError: see :meth:`read`.
        """
        start = None if after is None else self._in_s3(after)
        return self._s3.listed(self._in_s3(prefix), start)

    def write_like(
        self, uri: str, data: bytes, *, encryption: Mapping[str, str | bool], tag: str
    ) -> None:
        """Write ``data`` to ``uri`` in S3, owned by the bucket's owner, with the ``encryption`` of
        another object's :meth:`stat` and a tag ``name=value``.

        Raises:
            HilumError: see :meth:`read`.
        """
        self._s3.write_like(self._in_s3(uri), data, encryption, tag)

    def may_write(self, uri: str) -> bool:
        """Whether the credentials may write ``uri`` in S3. Writes nothing.

        Raises:
            HilumError: see :meth:`read`, except ``AccessDeniedError``.
        """
        return self._s3.may_write(self._in_s3(uri))

    def delete_below(self, prefix: str, *, before: datetime, ending: re.Pattern[str]) -> int:
        """Remove every object in S3, hidden or not, whose address begins with ``prefix`` and
        matches ``ending``, and that was written before ``before``. Returns their number.

        Raises:
            HilumError: see :meth:`read`.
        """
        batches = _batches(
            address
            for address, modified in self._s3.below(self._in_s3(prefix))
            if modified < before and ending.search(address)
        )
        removed = 0
        for batch in batches:
            self._s3.delete(batch)
            removed += len(batch)
        return removed

    def _in_s3(self, uri: str) -> str:
        backend, address = self._resolve(uri)
        if backend is not self._s3:
            raise InvalidURIError("The address is not in S3.", next_step="Use s3://bucket/key.")
        return address

    def _chunks(
        self,
        uri: str,
        max_bytes: int | None,
        etag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        backend, address = self._resolve(uri)
        limit = self._limits.max_object_bytes if max_bytes is None else max_bytes
        taken = 0
        for chunk in backend.chunks(address, limit, etag=etag, told=told):
            taken += len(chunk)
            check_size(taken, limit)
            yield chunk

    def _resolve(self, uri: str) -> tuple[Backend, str]:
        scheme, separator, rest = uri.partition("://")
        if separator and scheme == "s3":
            return self._s3, rest
        if separator and scheme != "file":
            raise InvalidURIError("The scheme of the address is neither s3:// nor file://.")
        if self._local is None:
            raise InvalidURIError(
                "Only s3:// addresses are allowed here.", next_step="Use s3://bucket/key."
            )
        if not separator:
            return self._local, uri
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise InvalidURIError("A file:// address must not name another machine.")
        return self._local, unquote(parts.path)


def open_store(s3: S3Settings, limits: Limits, *, allow_local: bool = False) -> ObjectStore:
    """Open the object store of these settings. It connects on first use.

    Args:
        limits: ``max_object_bytes`` limits what is read.
        allow_local: whether local files may be read. Only for the command line, never for a
            service, whose clients must not read its files.
    """
    return ObjectStore(s3, limits, allow_local=allow_local)


def _batches(addresses: Iterator[str]) -> Iterator[list[str]]:
    """Split ``addresses`` into lists that one request can remove (at most 1000)."""
    while batch := list(islice(addresses, 1000)):
        yield batch
