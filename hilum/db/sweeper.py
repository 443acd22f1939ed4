"""Finding jobs whose task has to be published (again). SQL decides; the broker only carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, or_, select, update

from hilum.db import schedule
from hilum.db.jobs import LEASED
from hilum.db.leases import choose_unlocked
from hilum.db.states import JobStatus
from hilum.db.tables import jobs, models
from hilum.queue import Queue, route


@dataclass(frozen=True, kw_only=True)
class Due:
    """A job to be published."""

    job_id: str
    route: str  # the broker's queue it travels on


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Published jobs of one of the broker's queues that no worker has claimed yet."""

    queue: Queue
    digest: str | None  # of the model that they are bound to
    jobs: int

    @property
    def route(self) -> str:
        """The broker's queue."""
        return route(self.queue, self.digest)


def expire_leases(connection: Connection) -> int:
    """Queue again every job whose worker has not renewed its lease. Returns how many."""
    again = {"available_at": datetime.now(UTC), "published_at": None}
    return LEASED.expire(connection, {"status": JobStatus.QUEUED, **again})


def take_due(connection: Connection, *, grace_s: float, limit: int = 1000) -> list[Due]:
    """Jobs that are due and not published, marked as published by this very statement.

    ``grace_s`` leaves fresh studies to the gateway, which publishes them itself.
    """
    now = datetime.now(UTC)
    settled = or_(jobs.c.attempts > 0, jobs.c.created_at <= now - timedelta(seconds=grace_s))
    due = (schedule.is_unpublished(), schedule.is_due(now), settled)
    return _publish(connection, due, limit)


def backlogs(connection: Connection) -> list[Backlog]:
    """How many published jobs no worker has claimed yet, for each of the broker's queues that
    has any; the most urgent ones first."""
    query = (
        select(jobs.c.queue, models.c.digest, func.count().label("jobs"))
        .select_from(jobs.outerjoin(models, models.c.id == jobs.c.model_id))
        .where(jobs.c.status == JobStatus.QUEUED, schedule.is_published())
        .group_by(jobs.c.queue, models.c.digest)
    )
    found = [
        Backlog(queue=Queue(row.queue), digest=row.digest, jobs=row.jobs)
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda each: (list(Queue).index(each.queue), each.digest or ""))


def take_lost(
    connection: Connection, backlog: Backlog, *, republish_after_s: float, limit: int
) -> list[Due]:
    """The longest published jobs of this queue that nobody claimed, marked as published now.

    Called with ``limit`` = the backlog minus the broker's own count, so that a long backlog is
    not published again and again. A wrong guess costs one message that finds its job taken.
    """
    before = datetime.now(UTC) - timedelta(seconds=republish_after_s)
    bound = jobs.c.model_id.is_(None)
    if backlog.digest is not None:
        served = select(models.c.id).where(models.c.digest == backlog.digest)
        bound = jobs.c.model_id.in_(served)
    lost = (jobs.c.queue == backlog.queue, bound, schedule.was_published_by(before))
    return _publish(connection, lost, limit)


def unpublish(connection: Connection, job_ids: Sequence[str]) -> None:
    """The broker did not take them after all."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(job_ids), jobs.c.status == JobStatus.QUEUED)
        .values(**schedule.place_times({"published_at": None}))
    )


def _publish(
    connection: Connection, which: tuple[ColumnElement[bool], ...], limit: int
) -> list[Due]:
    # Oldest first, without those that another sweeper or a worker is changing now.
    queued = jobs.c.status == JobStatus.QUEUED
    chosen = choose_unlocked(jobs, queued, *which, order_by=schedule.order_by_wait(), limit=limit)
    digest = select(models.c.digest).where(models.c.id == jobs.c.model_id).correlate(jobs)
    mark = (
        update(jobs)
        .where(jobs.c.id.in_(select(chosen.c.id)))
        .values(**schedule.place_times({"published_at": datetime.now(UTC)}))
        .returning(jobs.c.id, jobs.c.queue, digest.scalar_subquery().label("digest"))
    )
    return [
        Due(job_id=row.id, route=route(Queue(row.queue), row.digest))
        for row in connection.execute(mark)
    ]
