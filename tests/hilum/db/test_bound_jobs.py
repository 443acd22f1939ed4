"""Jobs that are bound to a model: claimed, published and found again for this model alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from support import tiny_package

from hilum.db import jobs, models, studies, sweeper
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.db.states import JobStatus
from hilum.db.studies import Submission
from hilum.db.sweeper import Due
from hilum.db.tables import jobs as jobs_table
from hilum.errors import LeaseLostError, StorageUnavailableError
from hilum.packages.load import Package
from hilum.queue import Queue, route, routes


@pytest.fixture
def other_model(database: Database, tmp_path: Path) -> int:
    """Another registered model."""
    manifest = tiny_package.build(tmp_path / "second", version="2.0.0")
    with database.write() as connection:
        return models.register(connection, **manifest.registration())


@pytest.fixture
def bound(database: Database, model_id: int) -> Submission:
    """A study whose job is bound to the tiny package."""
    return studies.submit(
        database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"], model_id=model_id
    )


def _claim(
    database: Database, job_id: str, model_id: int | None, lease_s: float = 60
) -> Claim | None:
    with database.write() as connection:
        return jobs.claim(connection, job_id, lease_s=lease_s, max_unreported=8, model_id=model_id)


def _taken(database: Database, job_id: str, model_id: int, lease_s: float = 60) -> Claim:
    claim = _claim(database, job_id, model_id, lease_s)
    assert claim is not None
    return claim


def _due(database: Database) -> list[Due]:
    with database.write() as connection:
        return sweeper.take_due(connection, grace_s=-1)


def test_routes() -> None:
    digest = "sha256:0123456789abcdef" + "f" * 48
    assert route(Queue.BULK, digest) == "bulk.0123456789abcdef"
    assert route(Queue.BULK) == "bulk"
    assert routes([Queue.BULK, Queue.STAT], digest) == [
        "stat",
        "stat.0123456789abcdef",
        "bulk",
        "bulk.0123456789abcdef",
    ]
    assert routes(Queue, None) == ["stat", "routine", "bulk"]


def test_only_the_model_it_is_bound_to_gets_a_job(
    database: Database, bound: Submission, model_id: int, other_model: int
) -> None:
    assert _claim(database, bound.job_id, None) is None
    assert _claim(database, bound.job_id, other_model) is None
    assert _taken(database, bound.job_id, model_id).attempt == 1
    # Neither does anyone else get it once its worker has died.
    with database.write() as connection:
        then = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(jobs_table).values(bound_lease_until=then))
    assert _claim(database, bound.job_id, other_model) is None
    assert _taken(database, bound.job_id, model_id).attempt == 2


def test_any_worker_takes_a_job_that_is_not_bound(database: Database, other_model: int) -> None:
    made = studies.submit(database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"])
    assert made.route == "bulk"
    assert _taken(database, made.job_id, other_model).attempt == 1


def test_a_bound_jobs_life(
    database: Database, bound: Submission, model_id: int, tiny: Package
) -> None:
    """The same as any other's, in columns that the release before does not look at."""
    own = route(Queue.BULK, tiny.digest)
    assert bound.route == own
    assert _due(database) == [Due(job_id=bound.job_id, route=own)]
    assert _due(database) == []
    claim = _taken(database, bound.job_id, model_id)
    assert _claim(database, bound.job_id, model_id) is None  # held
    error = StorageUnavailableError("The store did not answer.")
    with database.write() as connection:
        jobs.renew(connection, claim, lease_s=60)
        jobs.defer(connection, claim, error, delay_s=3600, images={})
    assert _claim(database, bound.job_id, model_id) is None  # not due
    assert _due(database) == []
    with database.write() as connection:
        connection.execute(update(jobs_table).values(bound_available_at=datetime.now(UTC)))
    claim = _taken(database, bound.job_id, model_id, lease_s=-1)
    with database.write() as connection:
        assert sweeper.expire_leases(connection) == 1
        assert sweeper.expire_leases(connection) == 0
    assert [due.job_id for due in _due(database)] == [bound.job_id]
    with pytest.raises(LeaseLostError), database.write() as connection:
        jobs.renew(connection, claim, lease_s=60)
    claim = _taken(database, bound.job_id, model_id)
    with database.write() as connection:
        jobs.quarantine(connection, claim, error)
        row = connection.execute(select(jobs_table)).one()
    assert row.status == JobStatus.FAILED
    assert row.available_at.year == 9999
    assert (row.published_at, row.lease_until, row.bound_lease_until) == (None, None, None)


def test_lost_tasks_are_counted_and_found_by_route(
    database: Database, bound: Submission, model_id: int, other_model: int, tiny: Package
) -> None:
    """Every queue of the broker has a backlog of its own."""
    plain = studies.submit(database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"])
    others = [
        studies.submit(
            database, tenant="north", queue=queue, uris=["s3://b/1"], model_id=other_model
        )
        for queue in (Queue.STAT, Queue.BULK)
    ]
    with database.write() as connection:
        for made in (bound, plain, *others):
            jobs.mark_published(connection, made.job_id)
        found = sweeper.backlogs(connection)
        assert {(each.route, each.jobs) for each in found} == {
            (made.route, 1) for made in (bound, plain, *others)
        }
        assert found[0].queue is Queue.STAT
        for backlog in found:
            lost = sweeper.take_lost(connection, backlog, republish_after_s=-1, limit=9)
            assert [each.route for each in lost] == [backlog.route]
        sweeper.unpublish(connection, [bound.job_id])
        assert tiny.digest not in {each.digest for each in sweeper.backlogs(connection)}
    assert [each.job_id for each in _due(database)] == [bound.job_id]


def test_a_repeated_request_names_the_same_route(database: Database, model_id: int) -> None:
    key = studies.Idempotency(key="k", request_sha256=b"1" * 32)
    one, two = (
        studies.submit(
            database,
            tenant="north",
            queue=Queue.STAT,
            uris=["s3://b/1"],
            idempotency=key,
            model_id=model_id,
        )
        for _ in range(2)
    )
    assert (one.created, two.created) == (True, False)
    assert (one.job_id, one.route) == (two.job_id, two.route)
