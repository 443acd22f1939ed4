"""What waits and what runs, by class and model: for metrics, and for who scales workers by them.

The truth is in SQL, so the figures are there while no worker runs. Only jobs that have not ended
are read, by the index on status: a database with 10^7 ended jobs costs no more than an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, and_, case, func, literal, select

from hilum.db import schedule
from hilum.db.states import JobStatus
from hilum.db.tables import campaigns, jobs, models
from hilum.queue import Queue

_MOST_COUNTED: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """The jobs of one class and model that have not ended."""

    queue: Queue
    digest: str | None  # of the model that the jobs are bound to; None: any worker may score them
    waiting: int  # due, and claimed by no worker
    deferred: int  # due later, after a transient error
    in_flight: int  # claimed by a worker
    age_s: float  # since the job that has waited longest became due; 0: none waits


@dataclass(frozen=True, kw_only=True)
class CampaignState:
    """The progress of a campaign that has not finished."""

    campaign_id: str
    images: Mapping[str, int]  # by state


def queues(connection: Connection) -> list[QueueState]:
    """One state for each class and model that has jobs which have not ended, in no order."""
    now = datetime.now(UTC)
    queued = jobs.c.status == JobStatus.QUEUED
    waits = and_(queued, schedule.is_due(now))

    query = (
        select(
            jobs.c.queue,
            models.c.digest,
            func.count(case((waits, 1))).label("waiting"),
            func.count(case((queued, 1))).label("queued"),
            func.count(case((jobs.c.status == JobStatus.RUNNING, 1))).label("in_flight"),
            func.min(case((waits, schedule.due_at()))).label("since"),
        )
        .select_from(jobs.outerjoin(models, models.c.id == jobs.c.model_id))
        .where(jobs.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))
        .group_by(jobs.c.queue, models.c.digest)
    )
    return [
        QueueState(
            queue=Queue(row.queue),
            digest=row.digest,
            waiting=row.waiting,
            deferred=row.queued - row.waiting,
            in_flight=row.in_flight,
            age_s=max(0.0, (now - row.since).total_seconds()) if row.since else 0.0,
        )
        for row in connection.execute(query)
    ]


def quarantined(connection: Connection) -> int:
    """The number of jobs that failed, counted up to 100,000."""
    some = select(literal(1)).where(jobs.c.status == JobStatus.FAILED).limit(_MOST_COUNTED)
    return int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())


def campaign_states(connection: Connection) -> list[CampaignState]:
    """Of each campaign that has not finished, from its counters."""
    names = ("selected", "queued", "scored", "refused", "failed")
    query = select(campaigns.c.id, *(campaigns.c[name] for name in names)).where(
        campaigns.c.finished_at.is_(None)
    )
    return [
        CampaignState(campaign_id=row.id, images={name: getattr(row, name) for name in names})
        for row in connection.execute(query)
    ]
