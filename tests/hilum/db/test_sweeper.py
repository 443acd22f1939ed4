"""What has to be published, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update

from hilum.db import jobs, sweeper
from hilum.db.connection import Database
from hilum.db.studies import Submission
from hilum.db.sweeper import Backlog
from hilum.db.tables import jobs as jobs_table
from hilum.errors import StorageUnavailableError
from hilum.queue import Queue

Submit = Callable[..., Submission]


def _due(database: Database, *, grace_s: float = 0, limit: int = 1000) -> list[tuple[str, str]]:
    with database.write() as connection:
        taken = sweeper.take_due(connection, grace_s=grace_s, limit=limit)
    return [(due.job_id, due.route) for due in taken]


def _lost(
    database: Database, queue: Queue = Queue.ROUTINE, *, after_s: float = 0, limit: int = 1000
) -> list[str]:
    with database.write() as connection:
        backlog = Backlog(queue=queue, digest=None, jobs=limit)
        taken = sweeper.take_lost(connection, backlog, republish_after_s=after_s, limit=limit)
    return [due.job_id for due in taken]


def _waiting(database: Database, queue: Queue = Queue.ROUTINE) -> int:
    with database.read() as connection:
        return sum(each.jobs for each in sweeper.backlogs(connection) if each.route == queue)


def _back_date(database: Database, job_id: str, column: str, seconds: float) -> None:
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    with database.write() as connection:
        connection.execute(
            update(jobs_table).where(jobs_table.c.id == job_id).values({column: then})
        )


def test_due_jobs_are_taken_once(database: Database, submit: Submit) -> None:
    stat, bulk = submit(queue=Queue.STAT), submit(queue=Queue.BULK)
    assert set(_due(database)) == {(stat.job_id, Queue.STAT), (bulk.job_id, Queue.BULK)}
    assert _due(database) == []
    assert (_waiting(database, Queue.STAT), _waiting(database, Queue.ROUTINE)) == (1, 0)


def test_fresh_jobs_are_left_to_the_gateway(database: Database, submit: Submit) -> None:
    fresh, old = submit(), submit()
    _back_date(database, old.job_id, "created_at", 61)
    assert [job_id for job_id, _ in _due(database, grace_s=60)] == [old.job_id]
    with database.write() as connection:
        jobs.mark_published(connection, fresh.job_id)
    assert _due(database) == []


def test_jobs_given_back_need_no_grace(database: Database, submit: Submit) -> None:
    now, later = submit(), submit()
    error = StorageUnavailableError("The store did not answer.")
    for submitted, delay_s in ((now, -1.0), (later, 3600.0)):
        with database.write() as connection:
            claim = jobs.claim(connection, submitted.job_id, lease_s=60, max_unreported=8)
            assert claim is not None
            jobs.defer(connection, claim, error, delay_s=delay_s, images={})
    assert [job_id for job_id, _ in _due(database, grace_s=60)] == [now.job_id]


def test_expired_leases(database: Database, submit: Submit) -> None:
    dead, alive, queued = submit(), submit(), submit()
    with database.write() as connection:
        jobs.claim(connection, dead.job_id, lease_s=-1, max_unreported=8)
        jobs.claim(connection, alive.job_id, lease_s=60, max_unreported=8)
        assert sweeper.expire_leases(connection) == 1
        assert sweeper.expire_leases(connection) == 0
    assert {job_id for job_id, _ in _due(database)} == {dead.job_id, queued.job_id}
    with database.write() as connection:
        again = jobs.claim(connection, dead.job_id, lease_s=60, max_unreported=8)
    assert again is not None
    assert again.attempt == 2


def test_lost_tasks_oldest_first_and_no_more_than_asked(database: Database, submit: Submit) -> None:
    submissions = [submit() for _ in range(4)]
    assert len(_due(database)) == 4
    for age, submitted in enumerate(submissions):
        _back_date(database, submitted.job_id, "published_at", 100 + age)
    assert _lost(database, after_s=30, limit=1) == [submissions[3].job_id]
    assert set(_lost(database, after_s=30, limit=2)) == {s.job_id for s in submissions[1:3]}
    # Taken is published: now only the first is still old.
    assert _lost(database, after_s=30) == [submissions[0].job_id]
    assert _lost(database, after_s=30) == []
    assert _waiting(database) == 4


def test_claimed_jobs_are_not_lost(database: Database, submit: Submit) -> None:
    submitted = submit()
    _due(database)
    _back_date(database, submitted.job_id, "published_at", 100)
    with database.write() as connection:
        jobs.claim(connection, submitted.job_id, lease_s=60, max_unreported=8)
    assert _lost(database) == []
    assert _waiting(database) == 0


def test_unpublish(database: Database, submit: Submit) -> None:
    one, other = submit(), submit()
    _due(database)
    with database.write() as connection:
        sweeper.unpublish(connection, [one.job_id])
    assert [job_id for job_id, _ in _due(database)] == [one.job_id]
    with database.read() as connection:
        query = select(jobs_table.c.id).where(jobs_table.c.published_at.is_not(None))
        assert set(connection.execute(query).scalars()) == {one.job_id, other.job_id}


def test_sweepers_at_the_same_time_share(
    database: Database, submit: Submit, race: Callable[..., list[list[tuple[str, str]]]]
) -> None:
    submissions = [submit() for _ in range(30)]
    taken = race(lambda _: _due(database, limit=5))
    assert all(len(page) <= 5 for page in taken), taken
    ids = [job_id for page in taken for job_id, _ in page]
    assert len(ids) == len(set(ids))
    ids += [job_id for job_id, _ in _due(database)]
    assert sorted(ids) == sorted(submitted.job_id for submitted in submissions)


def test_a_sweeper_passes_over_what_another_holds(database: Database, submit: Submit) -> None:
    """Without SKIP LOCKED the second would wait for the first one's end, for ever here."""
    if database.dialect != "postgresql":
        return  # SQLite has one writer at a time
    submissions = [submit() for _ in range(4)]
    with database.write() as first:
        held = sweeper.take_due(first, grace_s=0, limit=2)
        with database.write() as second:
            others = sweeper.take_due(second, grace_s=0)
    assert {due.job_id for due in held + others} == {s.job_id for s in submissions}
    assert (len(held), len(others)) == (2, 2)
