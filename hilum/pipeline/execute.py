"""Score any number of images: every core decodes while the engine runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from hilum.errors import HilumError
from hilum.errors.guarding import capture_failure
from hilum.pipeline.stages import Ready, Score
from hilum.pipeline.threads import LoadThreads

Key = TypeVar("Key")
Result: TypeAlias = Score | HilumError


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Key]):
    """How one image ended: with its score, or with why there is none."""

    key: Key = field(repr=False)
    result: Result
    loaded: bool = field(default=True, compare=False)  # so that ``score`` was called with it


@dataclass(kw_only=True, eq=False)
class Begun(Generic[Key]):
    """An image that is being loaded, or is ready for the engine."""

    key: Key = field(repr=False)
    urgency: int  # smaller numbers come first
    began: float | None = None  # when a thread began to load it, by the clock of its flow
    done: float | None = None  # when it was loaded, or failed
    image: Ready | HilumError | None = None
    future: Future[Ready | HilumError] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Choice(Generic[Key]):
    """The images of the next engine call, or in how many seconds to look again at the latest."""

    batch: Sequence[Begun[Key]] = ()
    again_s: float | None = None


# From the images of a flow in the order in which they were begun, and the time.
Choose: TypeAlias = Callable[[Sequence[Begun[Key]], float], Choice[Key]]


class Flow(Generic[Key]):
    """Images on their way: loaded on threads, then scored in batches by whoever calls :meth:`step`.

    The failure of one image, foreseen or not, is its outcome and does not stop the others. One
    thread starts images and steps.

    Args:
        load: called on ``threads``, once for each image.
        score: called by :meth:`step`; gives a result for each image, in their order.
        threads: where images are loaded.
        choose: which images go to the engine next.
        clock: in seconds.
    """

    def __init__(
        self,
        load: Callable[[Key], Ready],
        score: Callable[[Sequence[Ready]], Sequence[Result]],
        *,
        threads: LoadThreads,
        choose: Choose[Key],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._score = score
        self._threads = threads
        self._choose = choose
        self._clock = clock
        self._images: list[Begun[Key]] = []
        self._changed = threading.Condition()

    @property
    def images(self) -> Sequence[Begun[Key]]:
        """The images that were begun and have no outcome yet, in their order."""
        return self._images

    def start(self, key: Key, *, urgency: int = 0) -> None:
        """Begin to load an image."""
        begun = Begun(key=key, urgency=urgency)
        self._images.append(begun)
        begun.future = self._threads.submit(partial(self._run, begun), urgency=urgency)
        begun.future.add_done_callback(partial(self._loaded, begun))

    def step(self, timeout_s: float | None = None) -> list[Outcome[Key]]:
        """Wait for a batch, score it, and return the outcome of each of its images.

        Args:
            timeout_s: how long to wait; then nothing is returned. ``None``: as long as it takes.
        """
        until = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                choice = self._choose(self._images, now)
                if choice.batch or not self._images or (until is not None and now >= until):
                    break
                waits = [choice.again_s, None if until is None else until - now]
                self._changed.wait(min((w for w in waits if w is not None), default=None))
            self._images = [each for each in self._images if each not in choice.batch]
        return self._finish(choice.batch)

    def withdraw(self) -> list[Key]:
        """Give up the images whose loading has not begun; returns them."""
        gone = [each for each in self._images if each.future is not None and each.future.cancel()]
        self._images = [each for each in self._images if each not in gone]
        return [each.key for each in gone]

    def _run(self, begun: Begun[Key]) -> Ready | HilumError:
        begun.began = self._clock()
        return capture_failure(lambda: self._load(begun.key))

    def _loaded(self, begun: Begun[Key], future: Future[Ready | HilumError]) -> None:
        if future.cancelled():
            return
        with self._changed:
            begun.image, begun.done = future.result(), self._clock()
            self._changed.notify_all()

    def _finish(self, batch: Sequence[Begun[Key]]) -> list[Outcome[Key]]:
        ready = [each.image for each in batch if isinstance(each.image, Ready)]
        results = iter(self._score(ready) if ready else ())
        outcomes = []
        for each in batch:
            loaded = not isinstance(each.image, HilumError)
            result = each.image if isinstance(each.image, HilumError) else next(results)
            outcomes.append(Outcome(key=each.key, result=result, loaded=loaded))
        return outcomes


def execute(
    keys: Iterable[Key],
    load: Callable[[Key], Ready],
    score: Callable[[Sequence[Ready]], Sequence[Result]],
    *,
    threads: LoadThreads,
    batch_size: int,
    ahead: int = 1,
) -> Generator[list[Outcome[Key]], None, None]:
    """The outcomes of ``keys`` batch by batch, in their order, as they come.

    While ``score`` has a batch, at most ``ahead`` more are loaded, so memory does not grow with
    the number of images. Close the iterator to give up what has been begun.

    Args:
        keys: taken one by one, as they are needed.
        load, score, threads: see :class:`Flow`.
        batch_size: images of a batch. Only the last one has fewer.
        ahead: batches to load beside the one that is next for the engine; at least 1.

    Raises:
        HilumError: ``keys`` itself failed (a listing broke off); after the outcomes of all that
            it had given before.
    """
    flow: Flow[Key] = Flow(load, score, threads=threads, choose=in_order(batch_size))
    rest, failure = iter(keys), None
    try:
        while True:
            try:
                while len(flow.images) < batch_size * (1 + ahead):
                    flow.start(next(rest))
            except StopIteration:
                rest = iter(())
            except HilumError as error:
                rest, failure = iter(()), error
            if not flow.images:
                break
            yield flow.step()
    finally:
        flow.withdraw()
    if failure is not None:
        raise failure


def in_order(batch_size: int) -> Choose[Key]:
    """Full batches in the order in which the images were begun."""

    def choose(images: Sequence[Begun[Key]], now: float) -> Choice[Key]:
        first = images[:batch_size]
        whole = all(each.done is not None for each in first)
        return Choice(batch=first if whole else ())

    return choose


def urgent_first(
    batch_size: int, *, wait_s: float, at_most: Callable[[], int] | None = None
) -> Choose[Key]:
    """Images as they become ready, the most urgent first.

    Images of urgency 0 go at once, among themselves. Others go when the batch is full, when
    nothing else is being loaded, or when one of them has waited for ``wait_s`` seconds: a slow
    image does not hold back the others.

    Args:
        batch_size: the most images of a batch.
        at_most: a lower limit for batches without an image of urgency 0, asked each time.
        wait_s: the longest that a ready image waits for others.
    """

    def choose(images: Sequence[Begun[Key]], now: float) -> Choice[Key]:
        ready = [each for each in images if each.done is not None]
        if not ready:
            return Choice()
        ready.sort(key=lambda each: each.urgency)
        if ready[0].urgency == 0:
            return Choice(batch=[each for each in ready[:batch_size] if each.urgency == 0])
        size = batch_size if at_most is None else min(batch_size, at_most())
        batch = ready[:size]
        waited = max(now - each.done for each in ready if each.done is not None)
        if len(batch) == size or len(ready) == len(images) or waited >= wait_s:
            return Choice(batch=batch)
        return Choice(again_s=wait_s - waited)

    return choose
