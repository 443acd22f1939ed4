"""From an object's address to what the engine needs of it: from the cache if it is there, else from
the object, which then is kept."""

from __future__ import annotations

from hilum.errors import ObjectChangedError
from hilum.pipeline import examine as preparation
from hilum.pipeline.cache import Entry, Place, PreparedCache
from hilum.pipeline.examine import Examined, Prepared
from hilum.pipeline.score import Scorer
from hilum.storage import ObjectStore


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

    def prepare(self, uri: str) -> Prepared:
        """The film at ``uri``, see :meth:`hilum.pipeline.score.Scorer.prepare`; beside its errors
        there are those of :meth:`hilum.storage.ObjectStore.read`."""
        if self._cache is None:
            return self._scorer.prepare(self._store.read(uri))
        try:
            examined = self._examined(uri, self._cache)
        except ObjectChangedError:  # replaced this very moment; the new one is as good
            examined = self._examined(uri, self._cache)
        return preparation.judged(examined, self._scorer.recipe)

    def _examined(self, uri: str, cache: PreparedCache) -> Examined:
        place = cache.place(uri, self._scorer.recipe.preprocess)
        if place is None:
            return self._scorer.examine(self._store.read(uri))
        return self._recalled(place, cache) or self._made(uri, place, cache)

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
        entry = Entry(
            content_sha256=examined.content_sha256, header=examined.header, kept=examined.kept
        )
        cache.keep(place, entry)
        return examined
