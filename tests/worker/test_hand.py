"""Which images a process starts next, and how much it claims."""

from __future__ import annotations

from datetime import UTC, datetime

from hilum.db.claims import Claim, PendingImage
from hilum.queue import Queue
from worker.hand import Hand, JobInHand


def image(position: int, *, unreported: int = 0, deferred: bool = False) -> PendingImage:
    return PendingImage(
        image_id=f"im_{position}",
        position=position,
        uri=f"s3://bucket/{position}.dcm",
        unreported=unreported,
        deferred=deferred,
    )


def take(
    hand: Hand, *pending: PendingImage, queue: Queue = Queue.BULK, tenant: str = "north"
) -> JobInHand:
    number = len(hand.jobs)
    claim = Claim(
        job_id=f"jb_{number}",
        study_id=f"st_{number}",
        tenant=tenant,
        attempt=1,
        deferrals=0,
        failing_since=None,
        queue=queue,
        unreported=0,
        created_at=datetime.now(UTC),
        objects_due_at=None,
        pending=pending,
    )
    job = JobInHand.of(claim, max_image_attempts=3)
    hand.jobs[claim.job_id] = job
    return job


def hand(*, max_jobs: int = 10, max_images: int = 100) -> Hand:
    return Hand(max_jobs=max_jobs, max_images=max_images)


def started(of: Hand) -> list[tuple[str, int]]:
    return [(start.job.claim.job_id, start.image.position) for start in of.take_starts()]


def test_images_come_in_their_order_and_those_that_failed_before_come_last() -> None:
    mine = hand()
    take(mine, image(0, deferred=True), image(1), image(2, deferred=True), image(3))
    assert [position for _, position in started(mine)] == [1, 3, 0, 2]


def test_only_so_many_are_in_flight_and_the_more_urgent_come_on_top() -> None:
    mine = hand(max_images=2)
    bulk = take(mine, *map(image, range(5)))
    assert started(mine) == [("jb_0", 0), ("jb_0", 1)]
    take(mine, *map(image, range(5)), queue=Queue.STAT)
    assert started(mine) == [("jb_1", 0), ("jb_1", 1)]
    mine.end(bulk, "im_0")
    assert started(mine) == [], "the urgent ones fill the room"


def test_tenants_take_turns() -> None:
    mine = hand(max_images=4)
    take(mine, *map(image, range(300)), tenant="north")
    take(mine, image(0), tenant="south")
    assert started(mine) == [("jb_0", 0), ("jb_1", 0), ("jb_0", 1), ("jb_0", 2)]


def test_suspects_are_alone_in_flight_and_last_of_their_job() -> None:
    mine = hand()
    job = take(mine, image(0, unreported=2), image(1, unreported=1), image(2), image(3))
    other = take(mine, image(0), tenant="south")
    assert started(mine) == [("jb_0", 2), ("jb_1", 0), ("jb_0", 3)]
    mine.end(job, "im_2")
    mine.end(other, "im_0")
    assert started(mine) == [], "one is still in flight"
    mine.end(job, "im_3")
    assert started(mine) == [("jb_0", 1)], "the one with the fewest deaths"
    take(mine, image(0), queue=Queue.STAT)
    assert started(mine) == [], "nothing beside a suspect"
    mine.end(job, "im_1")
    assert started(mine) == [("jb_2", 0)]
    mine.end(mine.jobs["jb_2"], "im_0")
    assert started(mine) == [("jb_0", 0)]


def test_images_that_killed_too_many_workers_are_not_started() -> None:
    mine = hand()
    job = take(mine, image(0, unreported=3), image(1), image(2, unreported=4))
    assert [one.position for one in job.exhausted] == [0, 2]
    assert started(mine) == [("jb_0", 1)]


def test_less_urgent_jobs_take_no_room_from_more_urgent_ones() -> None:
    mine = hand(max_jobs=3, max_images=10)
    take(mine, *map(image, range(300)), queue=Queue.BULK)
    take(mine, *map(image, range(4)), queue=Queue.ROUTINE)
    rooms = {room.queue: (room.images, room.jobs) for room in mine.rooms(Queue)}
    assert rooms == {Queue.STAT: (10, 3), Queue.ROUTINE: (6, 2)}
    mine.drop(["jb_0"])
    rooms = {room.queue: (room.images, room.jobs) for room in mine.rooms(Queue)}
    assert rooms == {Queue.STAT: (10, 3), Queue.ROUTINE: (6, 2), Queue.BULK: (6, 2)}
