"""Deliveries: one a destination, taken by one sender at a time, tried again, and ended once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from hilum.db import deliveries, jobs
from hilum.db.claims import NotScored
from hilum.db.connection import Database
from hilum.db.deliveries import Delivery
from hilum.db.studies import Submission
from hilum.db.tables import deliveries as table
from hilum.db.tables import outbox
from hilum.errors import LeaseLostError, StorageUnavailableError

LEASE_S = 60.0
ERROR = StorageUnavailableError("The destination did not answer.")


@pytest.fixture
def event_id(
    database: Database, submit: Callable[..., Submission], refused: Callable[[str], NotScored]
) -> int:
    """The event of a job that has ended."""
    job_id = submit().job_id
    with database.write() as connection:
        claim = jobs.claim(connection, job_id, lease_s=LEASE_S, max_unreported=8)
        assert claim is not None
        jobs.record(connection, claim, [refused(claim.pending[0].image_id)], lease_s=LEASE_S)
        return int(connection.execute(select(outbox.c.id)).scalar_one())


def _create(database: Database, event_id: int, *destinations: str) -> int:
    with database.write() as connection:
        return deliveries.create(connection, event_id=event_id, destinations=destinations)


def _claim(database: Database, limit: int = 100) -> list[Delivery]:
    with database.write() as connection:
        return deliveries.claim_due(connection, limit=limit, lease_s=LEASE_S)


def _one(database: Database) -> Delivery:
    (delivery,) = _claim(database)
    return delivery


def _expire(database: Database) -> None:
    """As if the sender had died a while ago."""
    with database.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(table).values(lease_until=past))


def _row(database: Database) -> Row[Any]:
    with database.read() as connection:
        return connection.execute(select(table)).one()


def test_an_event_has_one_delivery_a_destination(database: Database, event_id: int) -> None:
    assert _create(database, event_id, "pacs", "webhook", "pacs") == 2
    assert _create(database, event_id, "fhir", "pacs") == 1
    assert _create(database, event_id) == 0
    found = _claim(database)
    assert sorted(one.destination for one in found) == ["fhir", "pacs", "webhook"]
    assert {(one.tenant, one.event_id, one.attempt) for one in found} == {("north", event_id, 1)}
    assert all(one.job_id.startswith("jb_") for one in found)


def test_an_event_that_is_not_there(database: Database) -> None:
    with pytest.raises(LookupError, match="4711"):
        _create(database, 4711, "pacs")


def test_creators_at_the_same_time(
    database: Database, event_id: int, race: Callable[..., list[object]]
) -> None:
    names = [f"d{n}" for n in range(8)]
    made = race(lambda n: _create(database, event_id, *names[n:], *names[:n]))
    assert sorted(made, reverse=True) == [8, 0, 0, 0, 0, 0]  # type: ignore[type-var]


def test_claimers_at_the_same_time_never_get_the_same_row(
    database: Database, event_id: int, race: Callable[..., list[Any]]
) -> None:
    _create(database, event_id, *(f"d{n}" for n in range(30)))
    taken = [one for got in race(lambda _: _claim(database, limit=10)) for one in got]
    taken += _claim(database)  # what a claimer passed over because another held its lock
    assert len(taken) == 30
    assert len({one.id for one in taken}) == 30
    assert {one.attempt for one in taken} == {1}


def test_claimers_of_a_dead_senders_rows_at_the_same_time(
    database: Database, event_id: int, race: Callable[..., list[Any]]
) -> None:
    _create(database, event_id, *(f"d{n}" for n in range(12)))
    assert len(_claim(database)) == 12
    assert _claim(database) == []
    _expire(database)
    taken = [one for got in race(lambda _: _claim(database, limit=4)) for one in got]
    taken += _claim(database)
    assert len({one.id for one in taken}) == len(taken) == 12
    assert {one.attempt for one in taken} == {2}


def test_a_limit_takes_what_is_due_longest(database: Database, event_id: int) -> None:
    _create(database, event_id, "one", "two", "three")
    with database.write() as connection:
        past = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(update(table).where(table.c.destination == "two").values(due_at=past))
    assert [one.destination for one in _claim(database, limit=1)] == ["two"]


def test_delivered_once(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    delivery = _one(database)
    with database.write() as connection:
        deliveries.deliver(connection, delivery)
    row = _row(database)
    assert row.delivered_at is not None
    assert (row.due_at, row.lease_until, row.error) == (None, None, None)
    _expire(database)  # whatever happens to the lease of a row that has ended
    assert _claim(database) == []
    assert _create(database, event_id, "pacs") == 0


def test_a_failed_delivery_is_due_again(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    later = datetime.now(UTC) + timedelta(hours=1)
    with database.write() as connection:
        (delivery,) = deliveries.claim_due(connection, limit=1, lease_s=LEASE_S)
        deliveries.defer(connection, delivery, ERROR, due_at=later)
    assert _claim(database) == []
    row = _row(database)
    assert (row.due_at, row.error_code, row.error) == (later, ERROR.code, ERROR.body())
    with database.write() as connection:
        connection.execute(update(table).values(due_at=datetime.now(UTC)))
    again = _one(database)
    assert again.attempt == 2
    with database.write() as connection:
        deliveries.deliver(connection, again)
    assert _row(database).error_code is None


def test_given_up_is_not_tried_again(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    with database.write() as connection:
        (delivery,) = deliveries.claim_due(connection, limit=1, lease_s=LEASE_S)
        deliveries.give_up(connection, delivery, ERROR)
    row = _row(database)
    assert (row.due_at, row.delivered_at, row.error_code) == (None, None, ERROR.code)
    assert _claim(database) == []


def test_released_is_no_failure(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    with database.write() as connection:
        (delivery,) = deliveries.claim_due(connection, limit=1, lease_s=LEASE_S)
        deliveries.release(connection, delivery)
    assert _row(database).error is None
    assert _one(database).attempt == 2


def test_who_lost_the_lease_changes_nothing(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    old = _one(database)
    _expire(database)
    new = _one(database)
    before = _row(database)
    soon = datetime.now(UTC)
    steps: list[Callable[..., object]] = [
        lambda c: deliveries.renew(c, old, lease_s=LEASE_S),
        lambda c: deliveries.deliver(c, old),
        lambda c: deliveries.defer(c, old, ERROR, due_at=soon),
        lambda c: deliveries.release(c, old),
        lambda c: deliveries.give_up(c, old, ERROR),
    ]
    for step in steps:
        with pytest.raises(LeaseLostError, match="delivery"), database.write() as connection:
            step(connection)
    assert _row(database) == before
    with database.write() as connection:
        deliveries.deliver(connection, new)
    with pytest.raises(LeaseLostError), database.write() as connection:
        deliveries.deliver(connection, new)


def test_a_renewed_lease_holds(database: Database, event_id: int) -> None:
    _create(database, event_id, "pacs")
    delivery = _one(database)
    _expire(database)
    with database.write() as connection:
        deliveries.renew(connection, delivery, lease_s=LEASE_S)
    assert _claim(database) == []
