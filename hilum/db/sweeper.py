"""Find jobs whose task must be published, or published again. SQL decides which these are."""

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
    """A job whose task is to be published."""

    job_id: str
    route: str  # the queue of the broker to publish it on


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The published jobs of one queue of the broker that no worker has claimed yet."""

    queue: Queue
    digest: str | None  # of the model that the jobs are bound to
    jobs: int

    @property
    def route(self) -> str:
        """The queue of the broker."""
        return route(self.queue, self.digest)


def expire_leases(connection: Connection) -> int:
    """Queue every job again whose worker has not renewed its lease. Returns their number."""
    again = {"available_at": datetime.now(UTC), "published_at": None}
    return LEASED.expire(connection, {"status": JobStatus.QUEUED, **again})


def take_due(connection: Connection, *, grace_s: float, limit: int = 1000) -> list[Due]:
    """Mark jobs that are due and not published as published, and return them.

    Jobs younger than ``grace_s`` are left to the gateway, which publishes them itself.
    """
    now = datetime.now(UTC)
    settled = or_(jobs.c.attempts > 0, jobs.c.created_at <= now - timedelta(seconds=grace_s))
    due = (schedule.is_unpublished(), schedule.is_due(now), settled)
    return _publish(connection, due, limit)


def backlogs(connection: Connection) -> list[Backlog]:
    """The backlog of each queue of the broker that has any, the most urgent first."""
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
    """Mark the jobs of this queue that were published longest ago and that nobody has claimed as
    published now, and return them.

    Pass the backlog minus the broker's own count as ``limit``, so that a long backlog is not
    published again and again. A wrong guess costs one message whose job is already claimed.
    """
    before = datetime.now(UTC) - timedelta(seconds=republish_after_s)
    bound = jobs.c.model_id.is_(None)
    if backlog.digest is not None:
        served = select(models.c.id).where(models.c.digest == backlog.digest)
        bound = jobs.c.model_id.in_(served)
    lost = (jobs.c.queue == backlog.queue, bound, schedule.was_published_by(before))
    return _publish(connection, lost, limit)


def unpublish(connection: Connection, job_ids: Sequence[str]) -> None:
    """Note that the broker did not accept the tasks of these jobs."""
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(job_ids), jobs.c.status == JobStatus.QUEUED)
        .values(**schedule.place_times({"published_at": None}))
    )


def _publish(
    connection: Connection, which: tuple[ColumnElement[bool], ...], limit: int
) -> list[Due]:
    # Oldest first, without jobs that another sweeper or a worker is changing.
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
