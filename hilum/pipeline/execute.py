"""Score any number of images: every core decodes while the engine runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hilum.errors import HilumError
from hilum.pipeline.score import Prepared, Score, Scorer, guarded

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Source(Generic[Key]):
    """One object to score. ``read`` is called on a decode thread, once; it gives the object's
    bytes, or the object prepared (:class:`hilum.pipeline.load.Fetcher`)."""

    key: Key = field(repr=False)
    read: Callable[[], bytes | Prepared] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Key]):
    """How one source ended: with its score, or with why there is none."""

    key: Key = field(repr=False)
    result: Score | HilumError


def stream(
    scorer: Scorer, sources: Iterable[Source[Key]], *, batch_size: int, threads: int
) -> Iterator[Outcome[Key]]:
    """Score ``sources``, in their order, as the results come.

    ``threads`` threads read, and have the scorer decode, ahead of the engine, by at most two
    batches and one image a thread, so memory does not grow with the number of sources. The failure
    of one image, foreseen or not, is its outcome and does not stop the others.

    Raises:
        HilumError: ``sources`` itself failed (a listing broke off); after the outcomes of all
            that it had given before.
    """
    ahead = 2 * batch_size + threads
    waiting: deque[tuple[Key, Future[Prepared | HilumError]]] = deque()
    feed = _Feed(sources)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hilum-decode")

    def fill() -> None:
        while len(waiting) < ahead and (source := feed.next()) is not None:
            waiting.append((source.key, pool.submit(_prepare, scorer, source)))

    try:
        fill()
        while waiting:
            batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            fill()  # before the engine runs, so that the threads have work meanwhile
            yield from _finish(scorer, [(key, future.result()) for key, future in batch])
    finally:
        pool.shutdown(cancel_futures=True)
    if feed.failure is not None:
        raise feed.failure


class _Feed(Generic[Key]):
    """The sources one by one; a failure of theirs ends them and is kept for later."""

    def __init__(self, sources: Iterable[Source[Key]]) -> None:
        self._sources = iter(sources)
        self.failure: HilumError | None = None

    def next(self) -> Source[Key] | None:
        try:
            return next(self._sources, None)
        except HilumError as error:
            self._sources, self.failure = iter(()), error
            return None


def _prepare(scorer: Scorer, source: Source[Key]) -> Prepared | HilumError:
    def step() -> Prepared:
        found = source.read()
        return found if isinstance(found, Prepared) else scorer.prepare(found)

    return guarded(step)


def _finish(
    scorer: Scorer, batch: list[tuple[Key, Prepared | HilumError]]
) -> Iterator[Outcome[Key]]:
    """The batch's outcomes in order; what failed before the engine is passed through."""
    ready = [image for _, image in batch if isinstance(image, Prepared)]
    scores = iter(scorer.score_each(ready)) if ready else iter(())
    for key, image in batch:
        yield Outcome(key=key, result=next(scores) if isinstance(image, Prepared) else image)
