"""The prepared-image cache: it keeps beside each film in S3 what a model needs of it.

A rescoring run then reads some ten kilobytes a film instead of megabytes, and decodes nothing. The
result is the same, bit for bit: the cache keeps a stage that every film passes on its way to the
model's input (``docs/operate/patient-data.md``).

Every entry is encrypted and authenticated (AES-256-GCM) for its film and its stage. A small film
still shows a patient, and the header contains UIDs. An entry that somebody changed, or moved to the
place of another film, must never be scored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import imagecodecs
import numpy as np
import PIL
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hilum.errors import ConfigurationError, HilumError, ObjectMissingError
from hilum.imaging.spec import PreprocessSpec
from hilum.pipeline import codec
from hilum.pipeline.stages import Examination
from hilum.pipeline.version import PIPELINE, reads_the_same
from hilum.settings import PreparedSettings
from hilum.storage import ObjectStore, Stat

log = logging.getLogger(__name__)

FORMAT: Final = 1  # of the entries
_MAGIC: Final = b"HPC\x01"
_NONCE: Final = 12  # bytes
TAG: Final = "hilum=prepared"  # for lifecycle rules
# How :meth:`PreparedCache.place` names an entry below the prefix.
_ENTRY: Final = re.compile(r"/[0-9a-f]{16}/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")
_MAX_ENTRY: Final = 64 * 2**20  # bytes


class DamagedEntryError(Exception):
    """The bytes are no entry of this film, this stage and this key. Never leaves this module."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of the entry for one version of a film and one stage, whether it exists or not."""

    uri: str = field(repr=False)
    name: str  # hexadecimal; reveals nothing about the film or its address
    source: Stat = field(repr=False)
    before: Place | None = field(default=None, repr=False)  # for the previous pipeline version


class PreparedCache:
    """Writes and finds entries. Threads may share it.

    A failure of the cache never fails a film: if an entry cannot be read, the film itself is
    decoded; if it cannot be written, there is none. Both are logged with their error code.
    """

    def __init__(self, store: ObjectStore, settings: PreparedSettings) -> None:
        if settings.secret is None or len(settings.secret.get_secret_value()) < 32:
            raise ConfigurationError(
                "HILUM_PREPARED__SECRET needs at least 32 characters while HILUM_PREPARED__MODE "
                "is not `off`.",
                next_step="Make one with `hilum cache secret` and give it to all processes.",
            )
        self._store = store
        self._settings = settings
        self._sealer = Sealer(settings.secret.get_secret_value())

    def place(self, uri: str, spec: PreprocessSpec) -> Place | None:
        """The place of the entry for the film that is now at ``uri``; ``None`` if the film is not
        in S3.

        Raises:
            HilumError: the store cannot describe the film.
        """
        source = self._store.stat(uri)
        if source is None:
            return None
        before = self._named(uri, spec, source, PIPELINE - 1)
        return replace(self._named(uri, spec, source, PIPELINE), before=before)

    def _named(self, uri: str, spec: PreprocessSpec, source: Stat, pipeline: int) -> Place:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        # The ETag is as hard to guess as the content, so the name reveals no key. Other builds of
        # the decoders might decode a lossy film to other pixels.
        builds = f"{imagecodecs.__version__} {PIL.__version__}"
        parts = [FORMAT, pipeline, builds, bucket, key, source.version]
        name = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
        stage = spec.stage_digest
        folder = f"{self._settings.bucket or bucket}/{self._settings.prefix}"
        # The digest of the stage comes first, so that all entries of a stage can be removed.
        return Place(
            uri=f"s3://{folder}/{stage[:16]}/{name[:2]}/{name}",
            name=f"{stage}/{name}",
            source=source,
        )

    def find(self, place: Place) -> Examination | None:
        """Read the entry, if there is an authentic one. An entry of the previous version of the
        pipeline is used and written anew, if this version computes the same."""
        found = self._read(place)
        if found is None and place.before is not None:
            found = self._read(place.before)
            if found is None or not reads_the_same(found):
                return None
            self.keep(place, found)
        return found

    def has(self, place: Place) -> bool:
        """Whether :meth:`find` would find an entry; nothing is written."""
        if self._read(place) is not None:
            return True
        before = None if place.before is None else self._read(place.before)
        return before is not None and reads_the_same(before)

    def _read(self, place: Place) -> Examination | None:
        try:
            return self._sealer.open(self._store.read(place.uri, max_bytes=_MAX_ENTRY), place.name)
        except ObjectMissingError:
            return None
        except DamagedEntryError:
            log.warning("prepared.damaged: an entry is ignored and will be written anew")
        except HilumError as error:
            log.warning("prepared.unreadable: %s", error.code)
        return None

    def keep(self, place: Place, examination: Examination) -> None:
        """Write an entry, unless the settings allow reading only."""
        if self._settings.mode != "on":
            return
        try:
            self._store.write_like(
                place.uri,
                self._sealer.seal(examination.kept(), place.name),
                encryption=place.source.encryption,
                tag=TAG,
            )
        except HilumError as error:
            log.warning("prepared.not_kept: %s", error.code)


class Sealer:
    """Encrypts entries into bytes, and decrypts them.

    Args:
        secret: a text with at least 32 random characters; see ``hilum cache secret``.
    """

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"hilum prepared " + secret.encode()).digest())

    def seal(self, kept: Examination, name: str) -> bytes:
        """Encrypt ``kept`` into bytes that can be opened only with the same ``name``."""
        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, _to_bytes(kept), name.encode())

    def open(self, data: bytes, name: str) -> Examination:
        """Decrypt ``data``.

        Raises:
            DamagedEntryError: it is no entry, was sealed with another name or another secret, or
                has changed.
        """
        start = len(_MAGIC) + _NONCE
        if not data.startswith(_MAGIC):
            raise DamagedEntryError
        try:
            plain = self._cipher.decrypt(data[len(_MAGIC) : start], data[start:], name.encode())
            return _from_bytes(plain)
        # The bytes are authentic, so other errors occur only for entries of another version.
        except (InvalidTag, ValueError, KeyError, TypeError, struct.error) as error:
            raise DamagedEntryError from error


def _to_bytes(kept: Examination) -> bytes:
    """Write the length of the fields, the fields as JSON, and the pixels as JPEG-LS."""
    fields, arrays = codec.pack(kept)
    text = json.dumps(fields).encode()
    pixels = b"".join(
        bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(array), level=0)) for array in arrays
    )
    return struct.pack("<I", len(text)) + text + pixels


def _from_bytes(plain: bytes) -> Examination:
    (length,) = struct.unpack_from("<I", plain)
    pixels = plain[4 + length :]
    arrays = (imagecodecs.jpegls_decode(pixels),) if pixels else ()
    return codec.unpack(json.loads(plain[4 : 4 + length]), arrays)


def evict(
    store: ObjectStore,
    settings: PreparedSettings,
    bucket: str,
    *,
    before: datetime,
    stage: str = "",
) -> int:
    """Remove the entries in ``bucket`` that were written before a time, and return their number.
    Objects that are not named like entries stay.

    Args:
        store: needs the right to list and delete below the prefix.
        settings: has the prefix; the secret is not needed.
        bucket: the bucket with the entries.
        before: a time in UTC.
        stage: digest of the stage whose entries are removed; empty for all stages.

    Raises:
        HilumError: the store refuses.
    """
    folder = f"s3://{bucket}/{settings.prefix}/"
    return store.delete_below(folder + stage[:16], before=before, ending=_ENTRY)


def open_cache(store: ObjectStore, settings: PreparedSettings) -> PreparedCache | None:
    """Open the cache of these settings, or return ``None`` if it is off.

    Raises:
        ConfigurationError: there is no secret, or it is too short.
    """
    return None if settings.mode == "off" else PreparedCache(store, settings)
