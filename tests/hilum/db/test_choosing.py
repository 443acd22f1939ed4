"""Which jobs are claimed next: the most urgent, tenants by their shares, then the oldest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, text, update
from support import tiny_package

from hilum.db import choosing, jobs, models, studies
from hilum.db.choosing import Room
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.db.tables import jobs as jobs_table
from hilum.db.tables import tenants
from hilum.queue import Queue


def add(
    database: Database,
    tenant: str = "north",
    *,
    images: int = 1,
    queue: Queue = Queue.ROUTINE,
    model_id: int | None = None,
) -> str:
    uris = [f"s3://bucket/{n}.dcm" for n in range(images)]
    made = studies.submit(database, tenant=tenant, queue=queue, uris=uris, model_id=model_id)
    return made.job_id


def claim(
    database: Database,
    *,
    queues: tuple[Queue, ...] = tuple(Queue),
    images: int = 100,
    count: int = 100,
    model_id: int | None = None,
    limit: int | None = None,
) -> list[Claim]:
    rooms = [Room(queue=queue, images=images, jobs=count) for queue in queues]
    with database.write() as connection:
        return jobs.claim_next(
            connection,
            rooms,
            lease_s=60,
            max_unreported=8,
            model_id=model_id,
            max_running_jobs=limit,
        )


def share(database: Database, tenant: str, weight: float, limit: int | None = None) -> None:
    row = {"tenant": tenant, "weight": weight, "max_running_jobs": limit}
    with database.write() as connection:
        connection.execute(insert(tenants).values(**row, changed_at=datetime.now(UTC)))


def test_the_most_urgent_come_first_and_then_the_oldest(database: Database) -> None:
    bulk = add(database, queue=Queue.BULK)
    routine = [add(database), add(database)]
    stat = add(database, queue=Queue.STAT)
    assert [each.job_id for each in claim(database)] == [stat, *routine, bulk]
    assert claim(database) == []


def test_a_claim_has_its_images_and_its_priority(database: Database) -> None:
    add(database, images=3, queue=Queue.BULK)
    (one,) = claim(database)
    assert [image.position for image in one.pending] == [0, 1, 2]
    assert (one.queue, one.attempt, one.tenant) == (Queue.BULK, 1, "north")


def test_only_priorities_with_room_are_claimed(database: Database) -> None:
    add(database)
    stat = add(database, queue=Queue.STAT)
    assert [each.job_id for each in claim(database, queues=(Queue.STAT,))] == [stat]


def test_jobs_are_taken_whole_until_there_are_enough_images(database: Database) -> None:
    taken = [add(database, images=4), add(database, images=4)]
    add(database)
    assert [each.job_id for each in claim(database, images=5)] == taken
    add(database)
    assert len(claim(database, count=1)) == 1


def test_a_tenant_does_not_wait_behind_the_backlog_of_another(database: Database) -> None:
    for _ in range(30):
        add(database, "north")
    late = add(database, "south")
    assert late in {each.job_id for each in claim(database, count=2)}
    second = add(database, "south")
    taken = {claim(database, count=1)[0].job_id for _ in range(2)}
    assert second in taken, "north has as many in hand"


def test_shares_follow_the_weights(database: Database) -> None:
    share(database, "north", 3)
    for tenant in ("north", "south") * 8:
        add(database, tenant)
    taken = [each.tenant for each in claim(database, count=8)]
    assert taken.count("north") == 6


def test_a_tenant_has_at_most_its_limit_in_hand(database: Database) -> None:
    share(database, "south", 1, limit=1)
    for tenant in ("north", "south") * 4:
        add(database, tenant)
    taken = [each.tenant for each in claim(database, limit=3)]
    assert (taken.count("north"), taken.count("south")) == (3, 1)
    assert claim(database, limit=3) == []


def test_a_tenant_at_its_limit_does_not_take_the_place_of_another(database: Database) -> None:
    share(database, "south", 9, limit=1)
    for tenant in ("south", "south", "north", "north"):
        add(database, tenant)
    # After the first two, "south" has the smaller share of both, and may have no more.
    taken = [each.tenant for _ in range(3) for each in claim(database, count=1)]
    assert sorted(taken) == ["north", "north", "south"]


def test_jobs_bound_to_another_model_are_left(
    database: Database, model_id: int, tmp_path: Path
) -> None:
    manifest = tiny_package.build(tmp_path / "second", version="2.0.0")
    with database.write() as connection:
        other = models.register(connection, **manifest.registration())
    ours, free = add(database, model_id=model_id), add(database)
    theirs = add(database, model_id=other)
    assert {each.job_id for each in claim(database, model_id=model_id)} == {ours, free}
    assert claim(database) == []
    assert [each.job_id for each in claim(database, model_id=other)] == [theirs]


def test_what_is_not_due_is_left_and_a_deferred_job_comes_when_it_is(database: Database) -> None:
    early, late = add(database), add(database)
    then = datetime.now(UTC) + timedelta(hours=1)
    with database.write() as connection:
        changed = update(jobs_table).where(jobs_table.c.id == early).values(available_at=then)
        connection.execute(changed)
    assert [each.job_id for each in claim(database)] == [late]


def test_claimers_at_the_same_time_share_the_jobs(
    database: Database, race: Callable[..., list[list[Claim]]]
) -> None:
    expected = {add(database) for _ in range(12)}
    found = race(lambda _: claim(database, count=2))
    taken = [each.job_id for claims in found for each in claims]
    assert len(taken) == len(set(taken))
    assert set(taken) <= expected


def test_a_backlog_is_not_read_whole(database: Database) -> None:
    """Each step uses an index made for it."""
    if database.dialect == "sqlite":
        with database.read() as connection:
            query = choosing._lines(Queue.BULK, model_id=None).compile(
                connection, compile_kwargs={"literal_binds": True}
            )
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {query}")).all()
        steps = [row.detail for row in plan if "jobs" in row.detail]
        assert steps
        assert all("ix_jobs_queued" in step for step in steps), steps
