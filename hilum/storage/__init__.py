"""Objects by URI: ``s3://bucket/key`` and, where it is allowed, files of this machine.

Failures come out as hilum's own errors, whose type says whether another try can help. No text
of theirs holds a URI: keys may contain patient data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hilum.errors import InvalidURIError
from hilum.settings import Limits, S3Settings
from hilum.storage.backend import Backend, Stat, check_size
from hilum.storage.local import LocalFiles
from hilum.storage.s3 import S3

__all__ = ["ObjectStore", "Stat", "open_store"]


class ObjectStore:
    """Reads and writes objects. Safe to share between threads; picklable for ``spawn``."""

    def __init__(self, s3: S3Settings, limits: Limits, *, allow_local: bool) -> None:
        self._arguments = (s3, limits, allow_local)
        self._limits = limits
        self._s3 = S3(s3)
        self._local: Backend | None = LocalFiles() if allow_local else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._arguments

    def read(self, uri: str, *, max_bytes: int | None = None, etag: str | None = None) -> bytes:
        """The content of one object.

        Args:
            uri: ``s3://bucket/key``, or a path or ``file://`` URI where local files are allowed.
            max_bytes: instead of ``Limits.max_object_bytes``.
            etag: from :meth:`stat`; of an object in S3, that it must still have.

        Raises:
            InvalidURIError: not such a URI, or not allowed here.
            ObjectMissingError, AccessDeniedError: the store says so.
            ObjectTooLargeError: said by its declared size before, or by its content during, the
                transfer.
            ObjectChangedError: it no longer has ``etag``.
            CredentialsRejectedError, StorageUnavailableError: transient.
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
        """Like :meth:`read`, into the file ``target``, with no more than a chunk in memory."""
        with target.open("wb") as file:
            self.read_into(file.write, uri, max_bytes=max_bytes)

    def iter_uris(self, prefix: str) -> Iterator[str]:
        """Every object at or below ``prefix``, in a stable order, one at a time.

        ``prefix`` is one object or a folder: ``s3://bucket/a`` means the object ``a`` and those
        below ``a/``, never ``ab``. Objects whose name, or one of whose folders' names below
        ``prefix``, begins with a dot are left out. A local folder that cannot be listed is
        yielded itself, so that reading it says why and the others go on.

        Raises:
            As :meth:`read`; an address with nothing at it yields nothing.
        """
        backend, address = self._resolve(prefix)
        scheme = "s3://" if backend is self._s3 else ""
        for found in backend.addresses(address):
            yield scheme + found

    def write(self, uri: str, data: bytes) -> None:
        """Put ``data`` at ``uri``, replacing what was there; nothing is ever half written.

        Raises:
            As :meth:`read`.
        """
        backend, address = self._resolve(uri)
        backend.write(address, data)

    def stat(self, uri: str) -> Stat | None:
        """What the store says of an object; ``None`` of a local file.

        Raises:
            As :meth:`read`.
        """
        backend, address = self._resolve(uri)
        return self._s3.stat(address) if backend is self._s3 else None

    def write_like(
        self, uri: str, data: bytes, *, encryption: Mapping[str, str | bool], tag: str
    ) -> None:
        """Put ``data`` at ``uri`` in S3, with the ``encryption`` of another object's
        :meth:`stat`, owned by the bucket's owner, and tagged ``name=value``.

        Raises:
            As :meth:`read`.
        """
        self._s3.write_like(self._in_s3(uri), data, encryption, tag)

    def delete_below(self, prefix: str, *, before: datetime, ending: re.Pattern[str]) -> int:
        """Remove every object in S3 whose address begins with ``prefix`` and in whose address
        ``ending`` is found, hidden ones too, and which was written before then; how many.

        Raises:
            As :meth:`read`.
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
            raise InvalidURIError("The address has a scheme that hilum does not read.")
        if self._local is None:
            raise InvalidURIError(
                "Only s3:// addresses are read here.", next_step="Use s3://bucket/key."
            )
        if not separator:
            return self._local, uri
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise InvalidURIError("A file:// address must not name another machine.")
        return self._local, unquote(parts.path)


def open_store(s3: S3Settings, limits: Limits, *, allow_local: bool = False) -> ObjectStore:
    """The object store of these settings; connects on first use only.

    Args:
        allow_local: whether paths of this machine may be read. Only for who asks on their own
            behalf (the command line): a service must not read its own files for a client.
    """
    return ObjectStore(s3, limits, allow_local=allow_local)


def _batches(addresses: Iterator[str]) -> Iterator[list[str]]:
    """As many as one request can remove."""
    while batch := list(islice(addresses, 1000)):
        yield batch


def _reopen(s3: S3Settings, limits: Limits, allow_local: bool) -> ObjectStore:
    return ObjectStore(s3, limits, allow_local=allow_local)
