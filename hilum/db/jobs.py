"""A job's life: claimed under a lease, worked on image by image, ended once.

Every change by a worker is fenced: it names the attempt it was claimed as, and a worker whose
lease has passed to another gets :class:`LeaseLostError` and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from hilum.db.connection import insert_or_ignore
from hilum.db.results import NewResult, save
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.tables import images, items, jobs, outbox
from hilum.errors import AttemptsExhaustedError, HilumError, LeaseLostError
from hilum.queue import Queue


@dataclass(frozen=True, kw_only=True)
class PendingImage:
    """An image that still has to be scored."""

    image_id: str
    uri: str
    unreported: int  # earlier starts after which the worker was never heard of again


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job held under a lease."""

    job_id: str
    tenant: str
    attempt: int  # the fence
    deferrals: int
    created_at: datetime
    pending: tuple[PendingImage, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An image ended well."""

    image_id: str
    result: NewResult


@dataclass(frozen=True, kw_only=True)
class NotScored:
    """An image ended with an error, for good."""

    image_id: str
    status: ItemStatus  # REFUSED or FAILED
    error: HilumError


def claim(
    connection: Connection, job_id: str, *, lease_s: float, max_unreported: int
) -> Claim | None:
    """Take the job, if it is there to be taken.

    ``None``: it has ended, is not due yet, or another worker holds it (then this message is a
    duplicate); or it was claimed ``max_unreported`` times without a word from the worker and has
    just been quarantined.
    """
    now = datetime.now(UTC)
    free = or_(
        and_(jobs.c.status == JobStatus.QUEUED, jobs.c.available_at <= now),
        and_(jobs.c.status == JobStatus.RUNNING, jobs.c.lease_until < now),
    )
    take = (
        update(jobs)
        .where(jobs.c.id == job_id, free)
        .values(
            status=JobStatus.RUNNING,
            attempts=jobs.c.attempts + 1,
            unreported=jobs.c.unreported + 1,
            lease_until=now + timedelta(seconds=lease_s),
        )
        .returning(
            jobs.c.tenant,
            jobs.c.attempts,
            jobs.c.unreported,
            jobs.c.deferrals,
            jobs.c.created_at,
        )
    )
    row = connection.execute(take).one_or_none()
    if row is None:
        return None
    taken = Claim(
        job_id=job_id,
        tenant=row.tenant,
        attempt=row.attempts,
        deferrals=row.deferrals,
        created_at=row.created_at,
        pending=_pending(connection, job_id),
    )
    if row.unreported > max_unreported:
        cause = AttemptsExhaustedError(
            f"{max_unreported} workers in a row took this job and did not come back."
        )
        quarantine(connection, taken, cause)
        return None
    return taken


def renew(connection: Connection, claim: Claim, *, lease_s: float) -> None:
    """Hold the job for another ``lease_s`` seconds. Being alive is not yet reporting back:
    the poison counters stay as they are."""
    _fenced(connection, claim, {"lease_until": datetime.now(UTC) + timedelta(seconds=lease_s)})


def begin(
    connection: Connection, claim: Claim, image_ids: Sequence[str], *, lease_s: float
) -> None:
    """Note that work on these images starts, before anything of them is read.

    If the worker dies now, the next one finds who was on the table.
    """
    renew(connection, claim, lease_s=lease_s)
    connection.execute(
        update(items)
        .where(items.c.job_id == claim.job_id, items.c.image_id.in_(image_ids))
        .values(unreported=items.c.unreported + 1)
    )


def record(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[Scored | NotScored],
    *,
    lease_s: float,
) -> bool:
    """Write outcomes, and in the same transaction end the job if they were the last.

    Returns true when the job has ended; the report owed is then in the outbox.
    """
    now = datetime.now(UTC)
    # First of all the fence: it also locks the job's row until this transaction ends.
    _fenced(connection, claim, {"lease_until": now + timedelta(seconds=lease_s), "unreported": 0})
    for outcome in outcomes:
        if isinstance(outcome, Scored):
            result_id = save(connection, tenant=claim.tenant, result=outcome.result)
            end: dict[str, Any] = {"status": ItemStatus.SCORED, "result_id": result_id}
        else:
            body = outcome.error.body()
            end = {"status": outcome.status, "error_code": body["code"], "error": body}
        connection.execute(
            update(items)
            .where(
                items.c.job_id == claim.job_id,
                items.c.image_id == outcome.image_id,
                items.c.status == ItemStatus.PENDING,
            )
            .values(**end, finished_at=now)
        )
    left = select(items.c.image_id).where(
        items.c.job_id == claim.job_id, items.c.status == ItemStatus.PENDING
    )
    if connection.execute(left.limit(1)).first() is not None:
        return False
    _end(connection, claim, JobStatus.COMPLETED, Event.JOB_COMPLETED)
    return True


def defer(connection: Connection, claim: Claim, error: HilumError, *, delay_s: float) -> None:
    """Give the job back after a transient error; it is due again after ``delay_s`` seconds."""
    now = datetime.now(UTC)
    body = error.body()
    _fenced(
        connection,
        claim,
        {
            "status": JobStatus.QUEUED,
            "unreported": 0,
            "deferrals": jobs.c.deferrals + 1,
            "lease_until": None,
            "available_at": now + timedelta(seconds=delay_s),
            "published_at": None,
            "error_code": body["code"],
            "error": body,
        },
    )
    # The worker lives and has reported: none of these images is what kills workers.
    connection.execute(
        update(items)
        .where(items.c.job_id == claim.job_id, items.c.status == ItemStatus.PENDING)
        .values(unreported=0)
    )


def quarantine(connection: Connection, claim: Claim, error: HilumError) -> None:
    """End the job with its error. Images already scored keep their results."""
    now = datetime.now(UTC)
    body = error.body()
    connection.execute(
        update(items)
        .where(items.c.job_id == claim.job_id, items.c.status == ItemStatus.PENDING)
        .values(status=ItemStatus.FAILED, error_code=body["code"], error=body, finished_at=now)
    )
    _end(connection, claim, JobStatus.FAILED, Event.JOB_FAILED, error_code=body["code"], error=body)


def mark_published(connection: Connection, job_id: str) -> None:
    """Note that the job's task was handed to the broker."""
    connection.execute(
        update(jobs).where(jobs.c.id == job_id).values(published_at=datetime.now(UTC))
    )


def queue_of(connection: Connection, job_id: str) -> Queue | None:
    """The job's queue."""
    value = connection.execute(select(jobs.c.queue).where(jobs.c.id == job_id)).scalar()
    return None if value is None else Queue(value)


def _pending(connection: Connection, job_id: str) -> tuple[PendingImage, ...]:
    query = (
        select(images.c.id, images.c.uri, items.c.unreported)
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.job_id == job_id, items.c.status == ItemStatus.PENDING)
        .order_by(images.c.position)
    )
    return tuple(
        PendingImage(image_id=row.id, uri=row.uri, unreported=row.unreported)
        for row in connection.execute(query)
    )


def _end(
    connection: Connection, claim: Claim, status: JobStatus, event: Event, **values: object
) -> None:
    now = datetime.now(UTC)
    cleared = {"error_code": None, "error": None, **values}
    _fenced(
        connection, claim, {"status": status, "lease_until": None, "finished_at": now, **cleared}
    )
    owed = insert_or_ignore(connection, outbox).values(
        tenant=claim.tenant, kind=event, job_id=claim.job_id, created_at=now
    )
    connection.execute(owed)


def _fenced(connection: Connection, claim: Claim, values: dict[str, Any]) -> None:
    change = (
        update(jobs)
        .where(
            jobs.c.id == claim.job_id,
            jobs.c.status == JobStatus.RUNNING,
            jobs.c.attempts == claim.attempt,
        )
        .values(**values)
    )
    if connection.execute(change).rowcount != 1:
        raise LeaseLostError("The lease on the job has passed to another worker.")
