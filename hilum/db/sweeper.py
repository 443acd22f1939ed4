"""Finding jobs whose task has to be published (again). SQL decides; the broker only carries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, or_, select, update

from hilum.db.jobs import LEASED
from hilum.db.leases import choose_unlocked
from hilum.db.states import JobStatus
from hilum.db.tables import jobs
from hilum.queue import Queue


def expire_leases(connection: Connection) -> int:
    """Queue again every job whose worker has not renewed its lease. Returns how many."""
    again = {"available_at": datetime.now(UTC), "published_at": None}
    return LEASED.expire(connection, {"status": JobStatus.QUEUED, **again})


def take_due(
    connection: Connection, *, grace_s: float, limit: int = 1000
) -> list[tuple[str, Queue]]:
    """Jobs that are due and not published, marked as published by this very statement.

    ``grace_s`` leaves fresh studies to the gateway, which publishes them itself.
    """
    now = datetime.now(UTC)
    settled = or_(jobs.c.attempts > 0, jobs.c.created_at <= now - timedelta(seconds=grace_s))
    due = (jobs.c.published_at.is_(None), jobs.c.available_at <= now, settled)
    return _publish(connection, due, limit)


def waiting(connection: Connection, queue: Queue) -> int:
    """How many published jobs of this queue no worker has claimed yet."""
    query = select(func.count()).where(
        jobs.c.status == JobStatus.QUEUED,
        jobs.c.queue == queue,
        jobs.c.published_at.is_not(None),
    )
    return int(connection.execute(query).scalar_one())


def take_lost(
    connection: Connection, queue: Queue, *, republish_after_s: float, limit: int
) -> list[tuple[str, Queue]]:
    """The longest published jobs of this queue that nobody claimed, marked as published now.

    Called with ``limit`` = :func:`waiting` minus the broker's own count, so that a long backlog
    is not published again and again. A wrong guess costs one message that finds its job taken.
    """
    before = datetime.now(UTC) - timedelta(seconds=republish_after_s)
    return _publish(connection, (jobs.c.queue == queue, jobs.c.published_at <= before), limit)


def unpublish(connection: Connection, job_ids: Sequence[str]) -> None:
    """The broker did not take them after all."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(job_ids), jobs.c.status == JobStatus.QUEUED)
        .values(published_at=None)
    )


def _publish(
    connection: Connection, which: tuple[ColumnElement[bool], ...], limit: int
) -> list[tuple[str, Queue]]:
    # Oldest first, without those that another sweeper or a worker is changing now.
    order_by = (jobs.c.published_at, jobs.c.available_at)
    queued = jobs.c.status == JobStatus.QUEUED
    chosen = choose_unlocked(jobs, queued, *which, order_by=order_by, limit=limit)
    mark = (
        update(jobs)
        .where(jobs.c.id.in_(select(chosen.c.id)))
        .values(published_at=datetime.now(UTC))
        .returning(jobs.c.id, jobs.c.queue)
    )
    return [(row.id, Queue(row.queue)) for row in connection.execute(mark)]
