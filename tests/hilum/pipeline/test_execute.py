"""Many images: in order, at once, in bounded memory, each failure on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import pytest
from support.ready import ready
from support.tiny_film import film

from hilum.engines.loading import open_engine
from hilum.errors import HilumError, LeaseLostError, ObjectMissingError, StorageUnavailableError
from hilum.packages.load import Package
from hilum.pipeline.execute import Batch, Outcome, Result, batches_of, execute
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Ready, Score
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
def pool() -> Iterator[Callable[[int], ThreadPoolExecutor]]:
    opened: list[ThreadPoolExecutor] = []

    def pool(threads: int) -> ThreadPoolExecutor:
        opened.append(ThreadPoolExecutor(threads))
        return opened[-1]

    yield pool
    for each in opened:
        each.shutdown(cancel_futures=True)


@pytest.fixture
def run(scorer: Scorer, pool: Callable[[int], ThreadPoolExecutor]) -> Callable[..., Any]:
    """Execute batches of keys; an iterator over their outcomes."""

    def run(
        keys: Iterable[int], load: Load, *, size: int, threads: int, **how: Any
    ) -> Iterator[Outcome[int]]:
        score = how.pop("score", scorer.score_each)
        found = execute(batches_of(keys, size), load, score, threads=pool(threads), **how)
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
    scorer: Scorer, films: list[Ready], pool: Callable[[int], ThreadPoolExecutor]
) -> None:
    loaded: list[int] = []

    def load(key: int) -> Ready:
        loaded.append(key)
        return films[0]

    threads = pool(1)
    outcomes = execute(
        batches_of(range(1000), 2), load, scorer.score_each, threads=threads, ahead=2
    )
    next(outcomes)
    outcomes.close()
    threads.shutdown()
    assert len(loaded) <= 6


def test_nothing_is_loaded_beside_a_batch_that_is_alone(
    scorer: Scorer, films: list[Ready], pool: Callable[[int], ThreadPoolExecutor]
) -> None:
    begun: set[int] = set()
    beside: dict[int, set[int]] = {}

    def start(batch: Batch[int]) -> None:
        begun.update(batch.keys)
        for key in batch.keys:
            beside[key] = set(begun)

    batches = [Batch(keys=(0, 1)), Batch(keys=(2,), alone=True), Batch(keys=(3,), alone=True),
               Batch(keys=(4, 5)), Batch(keys=(6,))]  # fmt: skip
    for outcomes in execute(
        batches,
        lambda key: films[0],
        scorer.score_each,
        threads=pool(2),
        ahead=3,
        on_start=start,
    ):
        begun.difference_update(outcome.key for outcome in outcomes)
    assert beside == {0: {0, 1}, 1: {0, 1}, 2: {2}, 3: {3}, 4: {4, 5}, 5: {4, 5}, 6: {4, 5, 6}}


def test_one_that_is_to_stop_begins_no_more_and_finishes_what_it_began(
    run: Callable[..., Any], load: Load
) -> None:
    answers = iter([False, False, True, False, False])  # the last must not be asked for
    outcomes = list(run(range(10), load, size=2, threads=1, should_stop=lambda: next(answers)))
    assert [outcome.key for outcome in outcomes] == [0, 1, 2, 3]
    assert next(answers) is False


def test_what_the_start_of_a_batch_raises_comes_out_and_nothing_of_it_is_loaded(
    run: Callable[..., Any], films: list[Ready]
) -> None:
    loaded: list[int] = []

    def load(key: int) -> Ready:
        loaded.append(key)
        return films[0]

    def start(batch: Batch[int]) -> None:
        if 4 in batch.keys:
            raise LeaseLostError("The lease on the job has passed to another worker.")

    outcomes = run(range(10), load, size=2, threads=1, on_start=start)
    assert [next(outcomes).key for _ in range(2)] == [0, 1]
    with pytest.raises(LeaseLostError):
        next(outcomes)
    assert not {4, 5} & set(loaded)
