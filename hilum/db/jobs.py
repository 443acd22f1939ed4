"""The life of a job: it is claimed under a lease, scored image by image, and ends once.

Every change by a worker is fenced (:mod:`hilum.db.leases`): a worker whose lease has passed to
another gets :class:`LeaseLostError`, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, func, literal, or_, select, update

from hilum.db import instances, schedule
from hilum.db.claims import Claim, NotScored, PendingImage, Scored
from hilum.db.connection import insert_or_ignore
from hilum.db.leases import LeasedTable, error_columns
from hilum.db.results import save
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.tables import UtcDateTime, images, items, jobs, outbox
from hilum.errors import AttemptsExhaustedError, HilumError

_NO_ERROR: Final = {"error_code": None, "error": None}
LEASED: Final = LeasedTable(
    table=jobs,
    noun="job",
    free=lambda now: or_(
        and_(jobs.c.status == JobStatus.QUEUED, schedule.is_due(now)),
        and_(jobs.c.status == JobStatus.RUNNING, schedule.lease_is_over(now)),
    ),
    held=jobs.c.status == JobStatus.RUNNING,
    on_take={"status": JobStatus.RUNNING, "unreported": jobs.c.unreported + 1},
    expired=schedule.lease_is_over,
    place=schedule.place_times,
)


def claim(
    connection: Connection,
    job_id: str,
    *,
    lease_s: float,
    max_unreported: int,
    model_id: int | None = None,
) -> Claim | None:
    """Claim the job, if it is free.

    Args:
        connection: a transaction for writing.
        job_id: the job.
        lease_s: the duration of the lease; the worker renews it.
        max_unreported: how many workers in a row may claim the job and not report back.
        model_id: the model that the worker serves. A job that is bound to another model is not
            claimed; without a model, no bound job is.

    Returns:
        ``None`` if the job has ended, is not due, is bound to another model, or is held by another
        worker (then the task is a duplicate); also if ``max_unreported`` workers in a row did not
        report back and the job has just been quarantined.
    """
    row = LEASED.take(
        connection,
        job_id,
        or_(jobs.c.model_id.is_(None), jobs.c.model_id == model_id),
        lease_s=lease_s,
        returning=(
            jobs.c.study_id,
            jobs.c.tenant,
            jobs.c.attempts,
            jobs.c.unreported,
            jobs.c.deferrals,
            jobs.c.failing_since,
        ),
    )
    if row is None:
        return None
    claim = Claim(
        job_id=job_id,
        study_id=row.study_id,
        tenant=row.tenant,
        attempt=row.attempts,
        deferrals=row.deferrals,
        failing_since=row.failing_since,
        pending=_pending(connection, job_id),
    )
    if row.unreported > max_unreported:
        cause = AttemptsExhaustedError(
            f"{max_unreported} workers in a row took this job and did not come back."
        )
        quarantine(connection, claim, cause)
        return None
    return claim


def renew(connection: Connection, claim: Claim, *, lease_s: float) -> None:
    """Hold the job for another ``lease_s`` seconds. This does not reset the counters of workers
    that did not report back."""
    LEASED.renew(connection, claim.job_id, claim.attempt, lease_s=lease_s)


def begin(
    connection: Connection, claim: Claim, image_ids: Sequence[str], *, lease_s: float
) -> None:
    """Note that work on these images starts, before any of them is fetched.

    If the worker dies, the next one knows which images were in flight.
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
    """Write outcomes and their instances. If they were the last, end the job in the same
    transaction and write its event into the outbox.

    Returns:
        Whether the job has ended.
    """
    now = datetime.now(UTC)
    values: dict[str, Any] = {"lease_until": now + timedelta(seconds=lease_s), "unreported": 0}
    if outcomes:
        values |= {"deferrals": 0, "failing_since": None}
    # The fence comes first: it also locks the row of the job until this transaction ends.
    LEASED.update_if_held(connection, claim.job_id, claim.attempt, values)
    seen = [outcome.instance for outcome in outcomes if outcome.instance is not None]
    instances.record(connection, tenant=claim.tenant, seen=seen)
    for outcome in sorted(outcomes, key=_order_of_saving):
        if isinstance(outcome, Scored):
            result_id = save(connection, tenant=claim.tenant, result=outcome.result)
            end = {"status": ItemStatus.SCORED, "result_id": result_id, **_NO_ERROR}
        else:
            end = {"status": outcome.status, **error_columns(outcome.error)}
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


def defer(
    connection: Connection,
    claim: Claim,
    error: HilumError,
    *,
    delay_s: float,
    images: Mapping[str, HilumError],
) -> None:
    """Give the job back after transient errors; it is due again after ``delay_s`` seconds.

    Args:
        error: becomes the last error of the job.
        images: the images that failed, each with its own error. Their worker is alive, so they no
            longer count as images that may kill a worker.
    """
    now = datetime.now(UTC)
    again = {
        "deferrals": jobs.c.deferrals + 1,
        "failing_since": func.coalesce(jobs.c.failing_since, literal(now, UtcDateTime)),
    }
    values = {
        **_values_of_queued(now + timedelta(seconds=delay_s)),
        **again,
        **error_columns(error),
    }
    LEASED.give_back(connection, claim.job_id, claim.attempt, values)
    for image_id, own in images.items():
        connection.execute(
            update(items)
            .where(
                items.c.job_id == claim.job_id,
                items.c.image_id == image_id,
                items.c.status == ItemStatus.PENDING,
            )
            .values(unreported=0, **error_columns(own))
        )


def release(connection: Connection, claim: Claim) -> None:
    """Give the job back without an error; any worker may continue it."""
    LEASED.give_back(connection, claim.job_id, claim.attempt, _values_of_queued(datetime.now(UTC)))


def quarantine(connection: Connection, claim: Claim, error: HilumError) -> None:
    """End the job with its error. Scored images keep their results; a pending image keeps its own
    transient error if it has one, and otherwise gets the error of the job."""
    now = datetime.now(UTC)
    _end(connection, claim, JobStatus.FAILED, Event.JOB_FAILED, **error_columns(error))
    pending = update(items).where(
        items.c.job_id == claim.job_id, items.c.status == ItemStatus.PENDING
    )
    connection.execute(pending.where(items.c.error_code.is_(None)).values(**error_columns(error)))
    connection.execute(pending.values(status=ItemStatus.FAILED, finished_at=now))


def mark_published(connection: Connection, job_id: str) -> None:
    """Note that the first task of the job was published.

    Has no effect once a worker has claimed the job, which may happen earlier than this.
    """
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.attempts == 0)
        .values(**schedule.place_times({"published_at": datetime.now(UTC)}))
    )


def _pending(connection: Connection, job_id: str) -> tuple[PendingImage, ...]:
    query = (
        select(images.c.id, images.c.position, images.c.uri, items.c.unreported, items.c.error_code)
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.job_id == job_id, items.c.status == ItemStatus.PENDING)
        .order_by(images.c.position)
    )
    return tuple(
        PendingImage(
            image_id=row.id,
            position=row.position,
            uri=row.uri,
            unreported=row.unreported,
            deferred=row.error_code is not None,
        )
        for row in connection.execute(query)
    )


def _end(
    connection: Connection, claim: Claim, status: JobStatus, event: Event, **values: object
) -> None:
    now = datetime.now(UTC)
    ended = {"status": status, "finished_at": now, "failing_since": None, **_NO_ERROR, **values}
    LEASED.give_back(connection, claim.job_id, claim.attempt, ended)
    owed = insert_or_ignore(connection, outbox).values(
        tenant=claim.tenant, kind=event, job_id=claim.job_id, created_at=now
    )
    connection.execute(owed)


def _values_of_queued(available_at: datetime) -> dict[str, Any]:
    return {
        "status": JobStatus.QUEUED,
        "unreported": 0,
        "available_at": available_at,
        "published_at": None,
    }


def _order_of_saving(outcome: Scored | NotScored) -> bytes:
    return outcome.result.content_sha256 if isinstance(outcome, Scored) else b""
