"""Deliveries: each carries one event of the outbox to one destination, under a lease.

A delivery is due, held by a sender, delivered, or given up. Every change by a sender is fenced
(:mod:`hilum.db.leases`): a sender whose lease has passed to another gets :class:`LeaseLostError`
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, and_, or_, select

from hilum.db.connection import insert_or_ignore
from hilum.db.leases import LeasedTable, error_columns
from hilum.db.tables import deliveries, jobs, outbox
from hilum.errors import HilumError
from hilum.ids import new_id

_LEASED: Final = LeasedTable(
    table=deliveries,
    noun="delivery",
    free=lambda now: and_(
        deliveries.c.due_at <= now,
        or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now),
    ),
    held=deliveries.c.lease_until.is_not(None),
)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery held under a lease."""

    id: str
    tenant: str
    event_id: int  # the row of the outbox
    job_id: str
    destination: str  # its name
    attempt: int  # the fence; 1 at the first try
    created_at: datetime


def create(connection: Connection, *, event_id: int, destinations: Collection[str]) -> int:
    """Create the event's delivery to each destination, due at once. Existing deliveries stay as
    they are. The job of a campaign ends without telling anybody: no delivery is created.

    Returns:
        The number of new deliveries.

    Raises:
        LookupError: the outbox has no such event.
    """
    event = connection.execute(select(outbox).where(outbox.c.id == event_id)).one_or_none()
    if event is None:
        raise LookupError(f"The outbox has no event {event_id}.")
    of_campaign = select(jobs.c.campaign_id).where(jobs.c.id == event.job_id)
    if not destinations or connection.execute(of_campaign).scalar() is not None:
        return 0
    now = datetime.now(UTC)
    rows = [
        {
            "id": new_id("dl"),
            "tenant": event.tenant,
            "event_id": event_id,
            "job_id": event.job_id,
            "destination": destination,
            "attempts": 0,
            "due_at": now,
            "created_at": now,
        }
        # Always in the same order: two transactions then wait for each other and do not deadlock.
        for destination in sorted(set(destinations))
    ]
    new = insert_or_ignore(connection, deliveries).values(rows).returning(deliveries.c.id)
    return len(connection.execute(new).all())


def claim_due(connection: Connection, *, limit: int, lease_s: float) -> list[Delivery]:
    """Take at most ``limit`` due deliveries, those that have been due longest first. A delivery
    whose sender has not renewed its lease is due too."""
    c = deliveries.c
    rows = _LEASED.take_due(
        connection,
        limit=limit,
        lease_s=lease_s,
        order_by=(c.due_at, c.id),
        returning=(
            c.id,
            c.tenant,
            c.event_id,
            c.job_id,
            c.destination,
            c.attempts.label("attempt"),
            c.created_at,
        ),
    )
    return sorted((Delivery(**row._mapping) for row in rows), key=lambda one: one.id)


def renew(connection: Connection, delivery: Delivery, *, lease_s: float) -> None:
    """Hold the delivery for another ``lease_s`` seconds from now."""
    _LEASED.renew(connection, delivery.id, delivery.attempt, lease_s=lease_s)


def deliver(connection: Connection, delivery: Delivery) -> None:
    """End the delivery: the destination has accepted it."""
    now = datetime.now(UTC)
    ended = {"due_at": None, "delivered_at": now, "error_code": None, "error": None}
    _LEASED.give_back(connection, delivery.id, delivery.attempt, ended)


def release(connection: Connection, delivery: Delivery) -> None:
    """Give the delivery back because this sender stops; it is due at once."""
    _LEASED.give_back(connection, delivery.id, delivery.attempt, {"due_at": datetime.now(UTC)})


def defer(
    connection: Connection, delivery: Delivery, error: HilumError, *, due_at: datetime
) -> None:
    """Give the delivery back after a failure; it is due again at ``due_at``."""
    values = {"due_at": due_at, **error_columns(error)}
    _LEASED.give_back(connection, delivery.id, delivery.attempt, values)


def give_up(connection: Connection, delivery: Delivery, error: HilumError) -> None:
    """End the delivery with its last error; it is not tried again."""
    values = {"due_at": None, **error_columns(error)}
    _LEASED.give_back(connection, delivery.id, delivery.attempt, values)
