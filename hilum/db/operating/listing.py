"""Read jobs: a page of them, one with its images counted, or their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Connection, Row, case, func, select

from hilum.db.operating.filters import JobFilter
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import items, jobs, models
from hilum.errors import ErrorBody, JobCancelledError
from hilum.queue import Queue


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job as its row says."""

    id: str
    study_id: str
    tenant: str
    queue: Queue
    status: JobStatus
    model: str | None  # the digest of the package that the job is bound to
    campaign_id: str | None
    attempts: int  # claims so far
    unreported: int  # workers in a row that took it and did not come back
    deferrals: int  # transient errors in a row
    created_at: datetime
    due_at: datetime | None  # when a worker may claim it; of a queued job
    published_at: datetime | None
    lease_until: datetime | None  # of a running job
    finished_at: datetime | None
    error: ErrorBody | None

    @property
    def cancelled(self) -> bool:
        """Whether an operator has ended it."""
        return self.error is not None and self.error["code"] == JobCancelledError.code


@dataclass(frozen=True, kw_only=True)
class JobDetails:
    """A job and its images, counted."""

    job: JobState
    counts: dict[ItemStatus, int]  # zeros included
    codes: dict[str, int]  # of images that ended, or last failed, with an error; by code


def _time(name: str) -> ColumnElement[datetime | None]:
    """A time of :mod:`hilum.db.schedule`, from the column where the job keeps it."""
    bound = jobs.c.model_id.is_not(None)
    return case((bound, jobs.c[f"bound_{name}"]), else_=jobs.c[name])


_COLUMNS: Final = (
    *(
        jobs.c[name]
        for name in (
            "id",
            "study_id",
            "tenant",
            "queue",
            "status",
            "campaign_id",
            "attempts",
            "unreported",
            "deferrals",
            "created_at",
            "finished_at",
            "error",
        )
    ),
    models.c.digest.label("model"),
    case((jobs.c.status == JobStatus.QUEUED, _time("available_at"))).label("due_at"),
    _time("published_at").label("published_at"),
    _time("lease_until").label("lease_until"),
)


def list_jobs(
    connection: Connection, which: JobFilter, *, after: str = "", limit: int = 100
) -> list[JobState]:
    """A page of jobs, the newest first.

    Args:
        connection: a transaction.
        which: the jobs.
        after: a keyset cursor, the id of the last job seen; empty: from the newest on.
        limit: of the page.
    """
    older = [jobs.c.id < after] if after else []
    query = (
        select(*_COLUMNS)
        .select_from(jobs.outerjoin(models, models.c.id == jobs.c.model_id))
        .where(*which.conditions, *older)
        .order_by(jobs.c.id.desc())
        .limit(limit)
    )
    return [_state(row) for row in connection.execute(query)]


def count(connection: Connection, *which: ColumnElement[bool]) -> int:
    """The number of jobs that meet these conditions."""
    query = select(func.count()).select_from(jobs).where(*which)
    return int(connection.execute(query).scalar_one())


def get(connection: Connection, job_id: str, *, tenant: str | None = None) -> JobDetails | None:
    """The job, if it exists and belongs to ``tenant``; ``None``: to any."""
    found = list_jobs(connection, JobFilter(ids=(job_id,), tenant=tenant))
    if not found:
        return None
    tally = (
        select(items.c.status, items.c.error_code, func.count())
        .where(items.c.job_id == job_id)
        .group_by(items.c.status, items.c.error_code)
    )
    counts, codes = dict.fromkeys(ItemStatus, 0), dict[str, int]()
    for status, code, number in cast(Sequence[Any], connection.execute(tally)):
        counts[ItemStatus(status)] += number
        if code is not None:
            codes[code] = codes.get(code, 0) + number
    return JobDetails(job=found[0], counts=counts, codes=dict(sorted(codes.items())))


def _state(row: Row[Any]) -> JobState:
    values = {**row._mapping, "queue": Queue(row.queue), "status": JobStatus(row.status)}
    return JobState(**values)
