"""Many images: in order, at once, in bounded memory, each failure on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from support.ready import ready
from support.tiny_film import film

from hilum.engines.loading import open_engine
from hilum.errors import HilumError, ObjectMissingError, StorageUnavailableError
from hilum.packages.load import Package
from hilum.pipeline.execute import Begun, Flow, Outcome, Result, execute, urgent_first
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Ready, Score
from hilum.pipeline.threads import LoadThreads
from hilum.settings import Settings

PATIENCE_S = 30
Load = Callable[[int], Ready]


@pytest.fixture(scope="module")
def scorer(tiny: Package) -> Scorer:
    return Scorer(tiny, open_engine(tiny, Settings()))


@pytest.fixture(scope="module")
def films(tiny: Package) -> list[Ready]:
    return [ready(tiny, film(seed)) for seed in range(4)]


@pytest.fixture(scope="module")
def load(films: list[Ready]) -> Load:
    return lambda key: films[key % len(films)]


@pytest.fixture
def pool() -> Iterator[Callable[..., LoadThreads]]:
    opened: list[LoadThreads] = []

    def pool(threads: int, reserved: int = 0) -> LoadThreads:
        opened.append(LoadThreads(threads, reserved=reserved))
        return opened[-1]

    yield pool
    for each in opened:
        each.shutdown()


@pytest.fixture
def run(scorer: Scorer, pool: Callable[..., LoadThreads]) -> Callable[..., Any]:
    """Execute batches of keys; an iterator over their outcomes."""

    def run(
        keys: Iterable[int], load: Load, *, size: int, threads: int, **how: Any
    ) -> Iterator[Outcome[int]]:
        score = how.pop("score", scorer.score_each)
        found = execute(keys, load, score, batch_size=size, threads=pool(threads), **how)
        return chain.from_iterable(found)

    return run


def test_every_image_has_one_outcome_in_its_place(
    run: Callable[..., Any], scorer: Scorer, load: Load, films: list[Ready]
) -> None:
    outcomes = list(run(range(11), load, size=4, threads=3))
    assert [outcome.key for outcome in outcomes] == list(range(11))
    alone = scorer.score(films)
    for outcome in outcomes:
        assert isinstance(outcome.result, Score)
        expected = alone[outcome.key % len(films)]
        np.testing.assert_allclose(outcome.result.probability, expected.probability, atol=1e-6)
        assert outcome.result.content_sha256 == expected.content_sha256
    assert list(run([], load, size=4, threads=3)) == []


def test_a_slow_first_image_does_not_change_the_order(
    run: Callable[..., Any], films: list[Ready]
) -> None:
    others = threading.Barrier(3)  # all three at once, or it times out

    def load(key: int) -> Ready:
        others.wait(PATIENCE_S)
        return films[0]

    keys = [outcome.key for outcome in run(range(3), load, size=1, threads=3, ahead=2)]
    assert keys == [0, 1, 2]


def test_each_failure_is_the_outcome_of_its_own_image(
    run: Callable[..., Any], films: list[Ready]
) -> None:
    def load(key: int) -> Ready:
        if key == 0:
            raise ObjectMissingError("There is no such object.")
        if key == 2:
            raise KeyError("DOE^JANE")
        if key == 3:
            raise StorageUnavailableError("The store answered 503.")
        return films[0]

    outcomes = list(run(range(5), load, size=4, threads=2))
    codes = [
        outcome.result.code if isinstance(outcome.result, HilumError) else "scored"
        for outcome in outcomes
    ]
    assert codes == [
        "storage.object_missing",
        "scored",
        "internal.unexpected",
        "storage.unavailable",
        "scored",
    ]
    assert "JANE" not in repr(outcomes)


def test_a_batch_of_failures_alone_asks_no_engine(run: Callable[..., Any]) -> None:
    def load(key: int) -> Ready:
        raise ObjectMissingError("There is no such object.")

    def score(batch: Sequence[Ready]) -> list[Result]:
        raise AssertionError

    assert len(list(run(range(3), load, size=2, threads=1, score=score))) == 3


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_loading_ahead_is_bounded(ahead: int, run: Callable[..., Any], load: Load) -> None:
    taken = 0

    def counted() -> Iterator[int]:
        nonlocal taken
        for key in range(60):
            taken = key + 1
            yield key

    found = run(counted(), load, size=4, threads=2, ahead=ahead)
    most = max(taken - outcome.key for outcome in found)
    assert most == 4 * (1 + ahead), "the batch in hand, and those behind it"


def test_loading_goes_on_while_the_engine_runs(
    run: Callable[..., Any], scorer: Scorer, films: list[Ready]
) -> None:
    later = threading.Event()

    def load(key: int) -> Ready:
        if key == 2:
            later.set()
        return films[0]

    def score(batch: Sequence[Ready]) -> list[Result]:
        assert later.wait(PATIENCE_S), "an image of the next batch"
        return scorer.score_each(batch)

    outcomes = list(run(range(4), load, size=2, threads=1, score=score))
    assert all(isinstance(outcome.result, Score) for outcome in outcomes)


def test_a_listing_that_breaks_off_is_raised_after_what_it_gave(
    run: Callable[..., Any], load: Load
) -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise StorageUnavailableError("The store answered 503.")

    outcomes = run(broken(), load, size=2, threads=2)
    assert [next(outcomes).key for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StorageUnavailableError):
        next(outcomes)


def test_who_stops_listening_stops_the_loading(
    scorer: Scorer, films: list[Ready], pool: Callable[..., LoadThreads]
) -> None:
    loaded: list[int] = []

    def load(key: int) -> Ready:
        loaded.append(key)
        return films[0]

    threads = pool(1)
    outcomes = execute(range(1000), load, scorer.score_each, threads=threads, batch_size=2, ahead=2)
    next(outcomes)
    outcomes.close()
    threads.shutdown()
    assert len(loaded) <= 6


def choice(
    *images: tuple[int, float | None], now: float, size: int = 3
) -> tuple[list[int], float | None]:
    """The places of the images that ``urgent_first`` sends to the engine, of images given by their
    urgency and the time at which they became ready; and when it looks again."""
    begun = [Begun(key=n, urgency=one, done=done) for n, (one, done) in enumerate(images)]
    found = urgent_first(size, wait_s=5)(begun, now)
    return [each.key for each in found.batch], found.again_s


def test_a_batch_goes_when_it_is_full_or_nothing_else_comes_or_one_has_waited() -> None:
    assert choice(now=10) == ([], None)
    assert choice((1, None), (1, None), now=10) == ([], None)
    assert choice((1, 9), (1, 10), (1, 10), (1, 10), (1, None), now=10) == ([0, 1, 2], None)
    assert choice((1, 10), now=10) == ([0], None), "a lone film is not held back"
    assert choice((1, None), (1, 8), now=10) == ([], 3)
    assert choice((1, None), (2, 5), (1, 8), now=10) == ([2, 1], None), "one is slow"


def test_what_is_most_urgent_goes_at_once_and_in_a_batch_of_its_own() -> None:
    assert choice((2, 1), (2, 1), (0, 10), (0, None), now=10) == ([2], None)
    assert choice((2, 9), (1, 9), (2, 9), (1, 9), now=10) == ([1, 3, 0], None)


def test_an_image_that_loads_for_ever_holds_nobody_back(
    films: list[Ready], scorer: Scorer, pool: Callable[..., LoadThreads]
) -> None:
    slow = threading.Event()

    def load(key: int) -> Ready:
        if key == 0:
            assert slow.wait(PATIENCE_S)
        return films[0]

    flow: Flow[int] = Flow(
        load, scorer.score_each, threads=pool(2), choose=urgent_first(2, wait_s=0)
    )
    for key in range(5):
        flow.start(key, urgency=1)
    ended: list[int] = []
    while len(ended) < 4:
        ended += [outcome.key for outcome in flow.step()]
    assert sorted(ended) == [1, 2, 3, 4]
    slow.set()
    assert [outcome.key for outcome in flow.step()] == [0]


def test_a_reserved_thread_takes_what_is_urgent_past_all_others(
    films: list[Ready], scorer: Scorer, pool: Callable[..., LoadThreads]
) -> None:
    held, begun = threading.Event(), threading.Event()

    def load(key: int) -> Ready:
        begun.set()
        if key < 8:
            assert held.wait(PATIENCE_S)
        return films[0]

    threads = pool(1, reserved=1)
    flow: Flow[int] = Flow(
        load, scorer.score_each, threads=threads, choose=urgent_first(2, wait_s=60)
    )
    for key in range(8):
        flow.start(key, urgency=2)
    assert begun.wait(PATIENCE_S)
    flow.start(8, urgency=0)
    assert [outcome.key for outcome in flow.step()] == [8]
    assert flow.step(0) == []
    assert len(flow.withdraw()) == 7, "all but the one that is being loaded"
    held.set()
    assert [outcome.key for outcome in flow.step()] in ([n] for n in range(8))
