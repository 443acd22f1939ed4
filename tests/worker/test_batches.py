"""In which order and company images are scored: what may kill the worker comes last, and alone."""

from __future__ import annotations

from hilum.db.claims import PendingImage
from worker.batches import plan


def image(position: int, *, unreported: int = 0, deferred: bool = False) -> PendingImage:
    return PendingImage(
        image_id=f"im_{position}",
        position=position,
        uri=f"s3://bucket/{position}.dcm",
        unreported=unreported,
        deferred=deferred,
    )


def positions(pending: list[PendingImage], *, batch_size: int = 4) -> list[list[int]]:
    found = plan(pending, batch_size=batch_size, max_attempts=3)
    return [[one.position for one in batch.keys] for batch in found.batches]


def test_calm_images_fill_batches_in_their_order() -> None:
    assert positions([image(n) for n in range(10)]) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert positions([]) == []


def test_images_that_met_a_transient_error_come_last_among_the_calm() -> None:
    pending = [image(0, deferred=True), image(1), image(2, deferred=True), image(3)]
    assert positions(pending, batch_size=2) == [[1, 3], [0, 2]]


def test_suspects_come_one_by_one_after_all_others_fewest_deaths_first() -> None:
    pending = [image(0, unreported=2), image(1, unreported=1), image(2), image(3, unreported=1)]
    found = plan(pending, batch_size=4, max_attempts=3)
    assert [[one.position for one in batch.keys] for batch in found.batches] == [
        [2], [1], [3], [0]
    ]  # fmt: skip
    assert [batch.alone for batch in found.batches] == [False, True, True, True]


def test_exhausted_images_are_in_no_batch() -> None:
    found = plan(
        [image(0, unreported=3), image(1), image(2, unreported=4)], batch_size=4, max_attempts=3
    )
    assert [one.position for one in found.exhausted] == [0, 2]
    assert [[one.position for one in batch.keys] for batch in found.batches] == [[1]]
