"""From an object's address to what the engine needs of it: from the cache if it is there, else from
the object, which then is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hilum.dicom import FilmHeader
from hilum.errors import ObjectChangedError
from hilum.pipeline import examine as preparation
from hilum.pipeline.cache import Entry, Place, PreparedCache
from hilum.pipeline.examine import Examined, Prepared
from hilum.pipeline.score import Scorer
from hilum.storage import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of an object whose header was read, whatever becomes of it."""

    header: FilmHeader
    content_sha256: bytes
    etag: str | None = field(repr=False)  # None: it is not in S3


class Fetcher:
    """Reads films for one scorer; from any number of threads.

    Args:
        scorer: made with ``keep=True`` if there is a cache.
        store: where the films are.
        cache: ``None``: every film is read and decoded. A scorer that keeps previews needs the
            films themselves, and uses no cache.
    """

    def __init__(self, scorer: Scorer, store: ObjectStore, cache: PreparedCache | None) -> None:
        self._scorer = scorer
        self._store = store
        self._cache = None if scorer.recipe.preview_side else cache

    def prepare(self, uri: str, *, seen: Callable[[Seen], None] | None = None) -> Prepared:
        """The film at ``uri``, see :meth:`hilum.pipeline.score.Scorer.prepare`; beside its errors
        there are those of :meth:`hilum.storage.ObjectStore.read`.

        Args:
            uri: in the store.
            seen: called once the header is known, also of a film that is then refused.
        """
        try:
            examined, etag = self._examined(uri)
        except ObjectChangedError:  # replaced this very moment; the new one is as good
            examined, etag = self._examined(uri)
        if seen is not None:
            seen(Seen(header=examined.header, content_sha256=examined.content_sha256, etag=etag))
        return preparation.judged(examined, self._scorer.recipe)

    def _examined(self, uri: str) -> tuple[Examined, str | None]:
        """The film and its ETag."""
        cache = self._cache
        place = None if cache is None else cache.place(uri, self._scorer.recipe.preprocess)
        if cache is None or place is None:
            data, etag = self._store.read_with_etag(uri)
            return self._scorer.examine(data), etag
        examined = self._recalled(place, cache) or self._made(uri, place, cache)
        return examined, place.source.etag

    def _recalled(self, place: Place, cache: PreparedCache) -> Examined | None:
        entry = cache.find(place)
        if entry is None:
            return None
        return preparation.recalled(
            entry.content_sha256, entry.header, entry.kept, self._scorer.recipe
        )

    def _made(self, uri: str, place: Place, cache: PreparedCache) -> Examined:
        # Of the version whose place it is: what is kept must never be another film's.
        examined = self._scorer.examine(self._store.read(uri, etag=place.source.etag))
        if examined.failure is None:
            cache.keep(place, _entry(examined))
        return examined


def _entry(examined: Examined) -> Entry:
    """What is kept of a film; not who it is of, which SQL knows from when it was first read."""
    facts = replace(examined.header.facts, identity=None)
    return Entry(
        content_sha256=examined.content_sha256,
        header=replace(examined.header, facts=facts),
        kept=examined.kept,
    )
