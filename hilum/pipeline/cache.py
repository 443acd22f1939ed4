"""The prepared-image cache: what a model needs of a film, kept beside it in S3.

A rescoring run then reads some ten kilobytes a film instead of megabytes, and decodes nothing. The
result is the same, bit for bit: what is kept is a stage that every film passes on its way to the
model's input (``docs/prepared-cache.md``).
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import imagecodecs
import PIL

from hilum.errors import ConfigurationError, HilumError, ObjectMissingError
from hilum.imaging.transform import PreprocessSpec
from hilum.pipeline.entry import FORMAT, DamagedEntryError, Entry, Sealer
from hilum.pipeline.version import PIPELINE
from hilum.settings import PreparedSettings
from hilum.storage import ObjectStore, Stat

__all__ = ["Entry", "Place", "PreparedCache", "evict", "open_cache"]

log = logging.getLogger(__name__)

TAG: Final = "hilum=prepared"  # for lifecycle rules
# How :meth:`PreparedCache.place` names an entry below the prefix.
_ENTRY: Final = re.compile(r"/[0-9a-f]{16}/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")
_MAX_ENTRY: Final = 64 * 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the entry of one version of a film for one stage is, or will be."""

    uri: str = field(repr=False)
    name: str  # hexadecimal; nothing of the film or its address can be read from it
    source: Stat = field(repr=False)


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
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        # The ETag is as unguessable as the content, so that the name gives no key away. Other
        # builds of the decoders might give other pixels of a lossy film.
        builds = f"{imagecodecs.__version__} {PIL.__version__}"
        parts = [FORMAT, PIPELINE, builds, bucket, key, source.version]
        name = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
        stage = spec.stage_digest
        folder = f"{self._settings.bucket or bucket}/{self._settings.prefix}"
        # The stage's digest comes first: a stage that no model has any more goes at once.
        return Place(
            uri=f"s3://{folder}/{stage[:16]}/{name[:2]}/{name}",
            name=f"{stage}/{name}",
            source=source,
        )

    def find(self, place: Place) -> Entry | None:
        """The entry, if there is one that can be trusted."""
        try:
            return self._sealer.open(self._store.read(place.uri, max_bytes=_MAX_ENTRY), place.name)
        except ObjectMissingError:
            return None
        except DamagedEntryError:
            log.warning("prepared.damaged: an entry is ignored and will be written anew")
        except HilumError as error:
            log.warning("prepared.unreadable: %s", error.code)
        return None

    def keep(self, place: Place, entry: Entry) -> None:
        """Write the entry, unless the cache is only read."""
        if self._settings.mode != "on":
            return
        try:
            self._store.write_like(
                place.uri,
                self._sealer.seal(entry, place.name),
                encryption=place.source.encryption,
                tag=TAG,
            )
        except HilumError as error:
            log.warning("prepared.not_kept: %s", error.code)


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
