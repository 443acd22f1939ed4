"""Score any number of images: every core decodes while the engine runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from hilum.errors import HilumError
from hilum.errors.guarding import capture_failure
from hilum.pipeline.stages import Ready, Score

Key = TypeVar("Key")
Result: TypeAlias = Score | HilumError


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Key]):
    """Images for one engine call. While an ``alone`` one is worked on, nothing else is."""

    keys: tuple[Key, ...] = field(repr=False)
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Key]):
    """How one image ended: with its score, or with why there is none."""

    key: Key = field(repr=False)
    result: Result


def execute(
    batches: Iterable[Batch[Key]],
    load: Callable[[Key], Ready],
    score: Callable[[Sequence[Ready]], list[Result]],
    *,
    threads: Executor,
    ahead: int = 1,
    on_start: Callable[[Batch[Key]], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[list[Outcome[Key]], None, None]:
    """The outcomes of each batch, in the order of ``batches``, as they come.

    While ``score`` has a batch, at most ``ahead`` more are loaded, so memory does not grow with
    their number. The failure of one image, foreseen or not, is its outcome and does not stop the
    others. Close the iterator to give up what has been begun.

    Args:
        batches: taken one by one, as they are needed.
        load: called on ``threads``, once for each image.
        score: called on this thread; gives a result for each image, in their order.
        threads: as many as images are to be loaded at a time.
        ahead: batches to load beside the one that is next for the engine; at least 1.
        on_start: called on this thread before anything of a batch is loaded.
        should_stop: asked before a batch is begun. From the first true on no other is begun; those
            begun are finished.

    Raises:
        HilumError: ``batches`` itself failed (a listing broke off); after the outcomes of all that
            it had given before. What ``on_start`` and ``should_stop`` raise comes out at once.
    """
    feed = _Feed(batches)
    begun: deque[_Begun[Key]] = deque()
    try:
        while True:
            while len(begun) <= ahead and not (begun and (begun[-1].alone or feed.next_is_alone())):
                if not feed.more():
                    break
                if should_stop():
                    feed.end()
                    break
                batch = feed.take()
                on_start(batch)
                images = tuple(threads.submit(_load, load, key) for key in batch.keys)
                begun.append(_Begun(keys=batch.keys, alone=batch.alone, images=images))
            if not begun:
                break
            yield _finish(begun.popleft(), score)
    finally:
        for future in (image for batch in begun for image in batch.images):
            future.cancel()
    if feed.failure is not None:
        raise feed.failure


def batches_of(keys: Iterable[Key], size: int) -> Iterator[Batch[Key]]:
    """Full batches of ``keys``, in their order. What ``keys`` raises comes after the batch of those
    that it had given before."""
    chunk: list[Key] = []
    try:
        for key in keys:
            chunk.append(key)
            if len(chunk) == size:
                yield Batch(keys=tuple(chunk))
                chunk = []
    except HilumError:
        if chunk:
            yield Batch(keys=tuple(chunk))
        raise
    if chunk:
        yield Batch(keys=tuple(chunk))


@dataclass(frozen=True, kw_only=True)
class _Begun(Batch[Key]):
    """A batch whose images are being loaded."""

    images: tuple[Future[Ready | HilumError], ...]


class _Feed(Generic[Key]):
    """The batches one by one; a failure of theirs ends them and is kept for later."""

    def __init__(self, batches: Iterable[Batch[Key]]) -> None:
        self._rest = iter(batches)
        self._next: Batch[Key] | None = None
        self.failure: HilumError | None = None

    def more(self) -> bool:
        """Whether there is another one."""
        if self._next is None:
            try:
                self._next = next(self._rest, None)
            except HilumError as error:
                self._rest, self.failure = iter(()), error
        return self._next is not None

    def next_is_alone(self) -> bool:
        """Whether there is another one, which is to be worked on alone."""
        return self.more() and self._next is not None and self._next.alone

    def end(self) -> None:
        """Give no more."""
        self._rest, self._next = iter(()), None

    def take(self) -> Batch[Key]:
        """The next one, which is there."""
        batch, self._next = self._next, None
        assert batch is not None
        return batch


def _load(load: Callable[[Key], Ready], key: Key) -> Ready | HilumError:
    return capture_failure(lambda: load(key))


def _finish(
    begun: _Begun[Key], score: Callable[[Sequence[Ready]], list[Result]]
) -> list[Outcome[Key]]:
    """The batch's outcomes in order; what failed before the engine is passed through."""
    images = [future.result() for future in begun.images]
    ready = [image for image in images if isinstance(image, Ready)]
    results = iter(score(ready) if ready else ())
    return [
        Outcome(key=key, result=next(results) if isinstance(image, Ready) else image)
        for key, image in zip(begun.keys, images, strict=True)
    ]
