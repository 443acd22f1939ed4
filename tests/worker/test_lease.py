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


def _wait(reached: threading.Event) -> None:
    assert reached.wait(30)


def test_a_lease_is_renewed_again_and_again(database: Database, claim: Claim) -> None:
    with lease.keep(database, claim, lease_s=0.3) as lost:
        seen: set[datetime] = set()
        while len(seen) < 3:
            seen.add(_until(database))
            lost.wait(0.02)
        assert not lost.is_set()
    after = _until(database)
    threading.Event().wait(0.3)
    assert _until(database) == after, "the thread has ended with the block"


def test_a_lease_that_passed_to_another_is_lost(database: Database, claim: Claim) -> None:
    with lease.keep(database, claim, lease_s=0.3) as lost:
        with database.write() as connection:
            then = datetime.now(UTC) - timedelta(seconds=1)
            connection.execute(update(jobs_table).values(lease_until=then))
            again = jobs.claim(connection, claim.job_id, lease_s=60, max_unreported=8)
        assert again is not None
        held = _until(database)
        _wait(lost)
    assert _until(database) == held, "nothing was written over the new lease"


def test_a_database_that_is_away_loses_no_lease(
    database: Database, claim: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else can take the job there either; the lease is renewed when it is back."""
    with lease.keep(database, claim, lease_s=0.3) as lost:
        with database.write() as connection:
            connection.execute(text("ALTER TABLE jobs RENAME TO away"))
        while "lease.not_renewed" not in caplog.text:
            assert not lost.wait(0.02)
        with database.write() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO jobs"))
        before = _until(database)
        while _until(database) == before:
            assert not lost.wait(0.02)
