"""A lease is kept while the work goes on, and its loss is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from hilum.db import jobs, migrate, studies
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.db.tables import jobs as jobs_table
from hilum.queue import Queue
from worker import lease


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """SQLite, migrated."""
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    migrate.upgrade(url)
    with Database(url) as database:
        yield database


@pytest.fixture
def claim(database: Database) -> Claim:
    """Of a job, for a minute."""
    made = studies.submit(database, tenant="north", queue=Queue.STAT, uris=["s3://b/1"])
    return _claim(database, made.job_id)


def _claim(database: Database, job_id: str) -> Claim:
    with database.write() as connection:
        claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=8)
    assert claim is not None
    return claim


def _until(database: Database) -> datetime:
    with database.read() as connection:
        found = connection.execute(jobs_table.select()).one().lease_until
    assert isinstance(found, datetime)
    return found


def test_leases_are_renewed_again_and_again(database: Database, claim: Claim) -> None:
    with lease.keep(database, lease_s=0.3) as leases:
        leases.hold([claim])
        seen: set[datetime] = set()
        while len(seen) < 3:
            seen.add(_until(database))
            threading.Event().wait(0.02)
        assert leases.take_lost() == set()
    after = _until(database)
    threading.Event().wait(0.3)
    assert _until(database) == after, "the thread has ended with the block"


def test_one_statement_renews_all_and_tells_which_are_lost(database: Database) -> None:
    claims = [
        _claim(
            database, studies.submit(database, tenant="n", queue=queue, uris=["s3://b/1"]).job_id
        )
        for queue in Queue
    ]
    leases = lease.Leases()
    leases.hold(claims)
    with database.write() as connection:
        then = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(jobs_table).values(lease_until=then))
        again = jobs.claim(connection, claims[1].job_id, lease_s=60, max_unreported=8)
        assert again is not None
    leases.renew(database, lease_s=600)
    assert leases.take_lost() == {claims[1].job_id}
    assert leases.take_lost() == set()
    with database.read() as connection:
        rows = {row.id: row.lease_until for row in connection.execute(jobs_table.select())}
    far = datetime.now(UTC) + timedelta(seconds=300)
    assert {job_id for job_id, until in rows.items() if until > far} == {
        claims[0].job_id,
        claims[2].job_id,
    }, "nothing was written over the new lease"


def test_a_database_that_is_away_loses_no_lease(
    database: Database, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else can take the job there either; the lease is renewed when it is back."""
    with lease.keep(database, lease_s=0.3) as leases:
        leases.hold([claim])
        with database.write() as connection:
            connection.execute(text("ALTER TABLE jobs RENAME TO away"))
        while "worker.leases_not_renewed" not in caplog.text:
            threading.Event().wait(0.02)
        with database.write() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO jobs"))
        before = _until(database)
        while _until(database) == before:
            threading.Event().wait(0.02)
        assert leases.take_lost() == set()


def test_a_job_that_was_lost_and_claimed_anew_is_held(database: Database, claim: Claim) -> None:
    def lose() -> None:
        with database.write() as connection:
            then = datetime.now(UTC) - timedelta(seconds=1)
            connection.execute(update(jobs_table).values(lease_until=then))

    leases = lease.Leases()
    leases.hold([claim])
    lose()
    again = _claim(database, claim.job_id)
    leases.renew(database, lease_s=600)
    leases.hold([again])  # before anybody asked what was lost
    assert leases.take_lost() == set()
    leases.renew(database, lease_s=600)
    assert leases.take_lost() == set()
