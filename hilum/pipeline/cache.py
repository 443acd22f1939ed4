"""The prepared-image cache: what a model needs of a film, kept beside it in S3.

A rescoring run then reads some ten kilobytes a film instead of megabytes, and decodes nothing. The
result is the same, bit for bit: what is kept is a stage that every film passes on its way to the
model's input (``docs/operate/patient-data.md``).

Everything is encrypted and authenticated (AES-256-GCM) for the film and the stage it belongs to.
A film made small still shows a patient, and the header facts hold UIDs; an entry that somebody
changed, or moved to another film's place, must never become a number.
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
    """The bytes are no entry of this film, this stage and this key. Never leaves the package."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the entry of one version of a film for one stage is, or will be."""

    uri: str = field(repr=False)
    name: str  # hexadecimal; nothing of the film or its address can be read from it
    source: Stat = field(repr=False)
    before: Place | None = field(default=None, repr=False)  # of the pipeline version before


class PreparedCache:
    """Keeps entries and finds them again; safe to share between threads.

    No failure of the cache fails a film: what cannot be read is made from the film itself, what
    cannot be written is not kept, and both are logged by their code.
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
        """The place of the film that is at ``uri`` now; ``None`` if it is not in S3.

        Raises:
            HilumError: the store does not say anything of the film itself.
        """
        source = self._store.stat(uri)
        if source is None:
            return None
        before = self._named(uri, spec, source, PIPELINE - 1)
        return replace(self._named(uri, spec, source, PIPELINE), before=before)

    def _named(self, uri: str, spec: PreprocessSpec, source: Stat, pipeline: int) -> Place:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        # The ETag is as unguessable as the content, so that the name gives no key away. Other
        # builds of the decoders might give other pixels of a lossy film.
        builds = f"{imagecodecs.__version__} {PIL.__version__}"
        parts = [FORMAT, pipeline, builds, bucket, key, source.version]
        name = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
        stage = spec.stage_digest
        folder = f"{self._settings.bucket or bucket}/{self._settings.prefix}"
        # The stage's digest comes first: a stage that no model has any more goes at once.
        return Place(
            uri=f"s3://{folder}/{stage[:16]}/{name[:2]}/{name}",
            name=f"{stage}/{name}",
            source=source,
        )

    def find(self, place: Place) -> Examination | None:
        """What was kept there, if it can be trusted. An entry of the pipeline version before is
        used, and kept under this version, if its film still reads the same."""
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
        """Write an entry of what is worth keeping, unless the cache is only read."""
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
    """Entries to bytes and back.

    Args:
        secret: any text, at least 32 characters of it random; see ``hilum cache secret``.
    """

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"hilum prepared " + secret.encode()).digest())

    def seal(self, kept: Examination, name: str) -> bytes:
        """``kept`` as bytes that only open under the same ``name``."""
        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, _to_bytes(kept), name.encode())

    def open(self, data: bytes, name: str) -> Examination:
        """What was kept in ``data``.

        Raises:
            DamagedEntryError: it is none, was sealed under another name or with another secret,
                or a byte of it has changed.
        """
        start = len(_MAGIC) + _NONCE
        if not data.startswith(_MAGIC):
            raise DamagedEntryError
        try:
            plain = self._cipher.decrypt(data[len(_MAGIC) : start], data[start:], name.encode())
            return _from_bytes(plain)
        # Authenticated, so the rest cannot go wrong but for another version's entries.
        except (InvalidTag, ValueError, KeyError, TypeError, struct.error) as error:
            raise DamagedEntryError from error


def _to_bytes(kept: Examination) -> bytes:
    """The length of the fields, the fields as JSON, the pixels as JPEG-LS."""
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
    """Remove the entries that are in ``bucket`` and were written before then; how many. What is
    not named as an entry is left, wherever it lies.

    Args:
        store: with the right to list and delete below the prefix.
        settings: for the prefix; no secret is needed.
        bucket: of the entries.
        before: in UTC.
        stage: only those of the stage with this digest; empty: all.

    Raises:
        HilumError: the store refuses.
    """
    folder = f"s3://{bucket}/{settings.prefix}/"
    return store.delete_below(folder + stage[:16], before=before, ending=_ENTRY)


def open_cache(store: ObjectStore, settings: PreparedSettings) -> PreparedCache | None:
    """The cache of these settings; ``None``: it is off.

    Raises:
        ConfigurationError: it has no secret.
    """
    return None if settings.mode == "off" else PreparedCache(store, settings)
