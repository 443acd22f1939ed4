"""Many images: in order, at once, in bounded memory, each failure on its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from support.tiny_film import film

from hilum.engines import Engine, EngineOutput
from hilum.engines.loading import open_engine
from hilum.errors import HilumError, ObjectMissingError, StorageUnavailableError
from hilum.packages.load import Package
from hilum.pipeline.execute import Source, stream
from hilum.pipeline.score import Score, Scorer
from hilum.settings import Limits, Settings

FILMS = [film(seed) for seed in range(4)]
PATIENCE_S = 30


@pytest.fixture
def scorer(tiny: Package) -> Scorer:
    return Scorer(tiny, open_engine(tiny, Settings()), Limits())


def sources(count: int) -> Iterator[Source[int]]:
    for key in range(count):
        yield Source(key=key, read=lambda key=key: FILMS[key % len(FILMS)])


def test_every_source_has_one_outcome_in_its_place(scorer: Scorer) -> None:
    outcomes = list(stream(scorer, sources(11), batch_size=4, threads=3))
    assert [outcome.key for outcome in outcomes] == list(range(11))
    alone = scorer.score([scorer.prepare(data) for data in FILMS])
    for outcome in outcomes:
        assert isinstance(outcome.result, Score)
        expected = alone[outcome.key % len(FILMS)]
        np.testing.assert_allclose(outcome.result.probability, expected.probability, atol=1e-6)
        assert outcome.result.content_sha256 == expected.content_sha256
    assert list(stream(scorer, [], batch_size=4, threads=3)) == []


def test_a_slow_first_read_does_not_change_the_order(scorer: Scorer) -> None:
    others_read = threading.Barrier(3)

    def read() -> bytes:
        others_read.wait(PATIENCE_S)
        return FILMS[0]

    found = [Source(key=key, read=read) for key in range(3)]  # all three at once, or it times out
    keys = [outcome.key for outcome in stream(scorer, found, batch_size=1, threads=3)]
    assert keys == [0, 1, 2]


def test_each_failure_is_the_outcome_of_its_own_image(scorer: Scorer) -> None:
    def missing() -> bytes:
        raise ObjectMissingError("There is no such object.")

    def bug() -> bytes:
        raise KeyError("DOE^JANE")

    def away() -> bytes:
        raise StorageUnavailableError("The store answered 503.")

    reads = [missing, lambda: FILMS[0], bug, lambda: b"", away, lambda: FILMS[1]]
    found = [Source(key=key, read=read) for key, read in enumerate(reads)]
    outcomes = list(stream(scorer, found, batch_size=4, threads=2))
    codes = [
        outcome.result.code if isinstance(outcome.result, HilumError) else "scored"
        for outcome in outcomes
    ]
    assert codes == [
        "storage.object_missing",
        "scored",
        "internal.unexpected",
        "dicom.empty",
        "storage.unavailable",
        "scored",
    ]
    assert "JANE" not in repr(outcomes)


def test_reading_ahead_is_bounded(scorer: Scorer) -> None:
    taken = 0

    def counted() -> Iterator[Source[int]]:
        nonlocal taken
        for source in sources(60):
            taken += 1
            yield source

    ahead = [taken - outcome.key for outcome in stream(scorer, counted(), batch_size=4, threads=2)]
    assert max(ahead) <= 4 + (2 * 4 + 2)  # the batch in hand, and what waits behind it


def test_decoding_goes_on_while_the_engine_runs(tiny: Package) -> None:
    read_later = threading.Event()

    class Waiting:
        """The real engine, which does not answer before an image of a later batch is read."""

        def __init__(self, engine: Engine) -> None:
            self.name = engine.name
            self._engine = engine

        def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
            assert read_later.wait(PATIENCE_S)
            return self._engine.run(images)

    def read(key: int) -> bytes:
        if key == 2:
            read_later.set()
        return FILMS[0]

    scorer = Scorer(tiny, Waiting(open_engine(tiny, Settings())), Limits())
    found = (Source(key=key, read=lambda key=key: read(key)) for key in range(4))
    outcomes = list(stream(scorer, found, batch_size=2, threads=1))
    assert all(isinstance(outcome.result, Score) for outcome in outcomes)


def test_a_listing_that_breaks_off_is_raised_after_what_it_gave(scorer: Scorer) -> None:
    def broken() -> Iterator[Source[int]]:
        yield from sources(3)
        raise StorageUnavailableError("The store answered 503.")

    outcomes = stream(scorer, broken(), batch_size=2, threads=2)
    assert [next(outcomes).key for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StorageUnavailableError):
        next(outcomes)


def test_who_stops_listening_stops_the_reading(scorer: Scorer) -> None:
    reads: list[int] = []

    def read(key: int) -> bytes:
        reads.append(key)
        return FILMS[0]

    found = (Source(key=key, read=lambda key=key: read(key)) for key in range(1000))
    outcomes = stream(scorer, found, batch_size=2, threads=2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert len(reads) <= 2 + (2 * 2 + 2)
    assert not [t for t in threading.enumerate() if t.name.startswith("hilum-decode")]
