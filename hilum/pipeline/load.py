"""The way of a film, from its address to what the engine needs of it.

::

    address ─► cache ─► kept ──────────────────────────► complete ─┐
                 └► (none) ─► read ─► examine, in a decode process ┴► admit ─► Ready
                                          └► cache
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hilum import tracing
from hilum.dicom import FilmHeader
from hilum.errors import ObjectChangedError
from hilum.pipeline.admit import admit
from hilum.pipeline.cache import PreparedCache
from hilum.pipeline.examine import complete, examiner
from hilum.pipeline.stages import Examination, ExamineOptions, Ready
from hilum.sandbox import Decoders
from hilum.sandbox.shared import SharedBytes
from hilum.storage import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of an object whose header was read, whatever becomes of it."""

    header: FilmHeader
    content_sha256: bytes
    etag: str | None = field(repr=False)  # None: it is not in S3


class Loader:
    """Loads films for one model; from any number of threads.

    Args:
        options: of the model; :attr:`ExamineOptions.keep` is set here, by whether there is a cache.
        store: where the films are.
        cache: ``None``: every film is read and decoded. Whoever wants previews needs the films
            themselves, and uses no cache.
        decoders: where objects of others are decoded; ``None``: in this process, for one's own.
    """

    def __init__(
        self,
        options: ExamineOptions,
        store: ObjectStore,
        cache: PreparedCache | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        self._cache = None if options.preview_side else cache
        self._options = options.model_copy(update={"keep": self._cache is not None})
        self._store = store
        self._examine = examiner(self._options, decoders)

    def load(
        self,
        uri: str,
        *,
        on_header: Callable[[Seen], None] | None = None,
        urgent: bool = False,
    ) -> Ready:
        """The film at ``uri``, checked, decoded and preprocessed.

        Args:
            uri: in the store.
            on_header: called once the header is known, also of a film that is then refused.
            urgent: it may use the decode processes that are reserved for such images.

        Raises:
            DicomError: not a usable image; a subclass says why.
            NotApplicableError: an image this model must not score.
            DecodersUnavailableError, OutOfMemoryError: of the decode processes.
            HilumError: as :meth:`hilum.storage.ObjectStore.read`.
        """
        try:
            examination, etag = self._examination(uri, urgent)
        except ObjectChangedError:  # replaced this very moment; the new one is as good
            examination, etag = self._examination(uri, urgent)
        if on_header is not None:
            sha256 = examination.content_sha256
            on_header(Seen(header=examination.header, content_sha256=sha256, etag=etag))
        return admit(examination, self._options.policy)

    def _examination(self, uri: str, urgent: bool) -> tuple[Examination, str | None]:
        """The film and its ETag."""
        cache = self._cache
        place = None if cache is None else cache.place(uri, self._options.preprocess)
        if cache is None or place is None:
            return self._read(uri, urgent)
        kept = cache.find(place)
        if kept is not None and (known := complete(kept, self._options)) is not None:
            return known, place.source.etag
        # Of the version whose place it is: what is kept must never be another film's.
        examination, _ = self._read(uri, urgent, etag=place.source.etag)
        if examination.failure is None:
            cache.keep(place, examination)
        return examination, place.source.etag

    def _read(
        self, uri: str, urgent: bool, *, etag: str | None = None
    ) -> tuple[Examination, str | None]:
        """The film, from the object itself, and its ETag."""
        with SharedBytes() as data:
            with tracing.span("fetch"):
                found = self._store.read_into(data.write, uri, etag=etag)
            with tracing.span("decode"):
                return self._examine(data, urgent=urgent), found
