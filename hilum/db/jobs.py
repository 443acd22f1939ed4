"""A job's life: claimed under a lease, worked on image by image, ended once.

Every change by a worker is fenced (:mod:`hilum.db.leases`): it names the attempt it was claimed
as, and a worker whose lease has passed to another gets :class:`LeaseLostError` and writes nothing.
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
    """Take the job, if it is there to be taken.

    Args:
        connection: of a transaction for changes.
        job_id: the job.
        lease_s: how long it is held without a word from the worker.
        max_unreported: how many workers in a row may take it and not come back.
        model_id: the model that the worker serves. A job that is bound to another is not taken;
            without a model, no bound job is.

    Returns:
        ``None`` if the job has ended, is not due yet or is bound to another model, or if another
        worker holds it (then this message is a duplicate); also if it was claimed
        ``max_unreported`` times without a word from the worker and has just been quarantined.
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
    taken = Claim(
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
        quarantine(connection, taken, cause)
        return None
    return taken


def renew(connection: Connection, claim: Claim, *, lease_s: float) -> None:
    """Hold the job for another ``lease_s`` seconds. Being alive is not yet reporting back:
    the poison counters stay as they are."""
    LEASED.renew(connection, claim.job_id, claim.attempt, lease_s=lease_s)


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
    """Write outcomes and their instances, and in the same transaction end the job if they were
    the last.

    Returns true when the job has ended; the report owed is then in the outbox.

    Raises:
        LeaseLostError: another worker has the job; nothing is written.
    """
    now = datetime.now(UTC)
    values: dict[str, Any] = {"lease_until": now + timedelta(seconds=lease_s), "unreported": 0}
    if outcomes:
        values |= {"deferrals": 0, "failing_since": None}
    # First of all the fence: it also locks the job's row until this transaction ends.
    LEASED.update_if_held(connection, claim.job_id, claim.attempt, values)
    seen = [outcome.instance for outcome in outcomes if outcome.instance is not None]
    instances.record(connection, tenant=claim.tenant, seen=seen)
    for outcome in sorted(outcomes, key=_save_order):
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
        error: shown as the job's last error.
        images: those that were begun and came back, each with its own error. A worker lives to
            tell of them, so they are not what kills workers.

    Raises:
        LeaseLostError: another worker has the job; nothing is written.
    """
    now = datetime.now(UTC)
    again = {
        "deferrals": jobs.c.deferrals + 1,
        "failing_since": func.coalesce(jobs.c.failing_since, literal(now, UtcDateTime)),
    }
    values = {**_queued(now + timedelta(seconds=delay_s)), **again, **error_columns(error)}
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
    """Give the job back as it stands, for any worker to go on with; nothing went wrong.

    Raises:
        LeaseLostError: another worker has the job; nothing is written.
    """
    LEASED.give_back(connection, claim.job_id, claim.attempt, _queued(datetime.now(UTC)))


def quarantine(connection: Connection, claim: Claim, error: HilumError) -> None:
    """End the job with its error. Images already scored keep their results; a pending one keeps
    its own transient error if it has met one, and otherwise gets the job's.

    Raises:
        LeaseLostError: another worker has the job; nothing is written.
    """
    now = datetime.now(UTC)
    _end(connection, claim, JobStatus.FAILED, Event.JOB_FAILED, **error_columns(error))
    pending = update(items).where(
        items.c.job_id == claim.job_id, items.c.status == ItemStatus.PENDING
    )
    connection.execute(pending.where(items.c.error_code.is_(None)).values(**error_columns(error)))
    connection.execute(pending.values(status=ItemStatus.FAILED, finished_at=now))


def mark_published(connection: Connection, job_id: str) -> None:
    """Note that the job's first task was handed to the broker.

    Without effect once a worker has taken the job, which may be quicker than this.
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


def _queued(available_at: datetime) -> dict[str, Any]:
    return {
        "status": JobStatus.QUEUED,
        "unreported": 0,
        "available_at": available_at,
        "published_at": None,
    }


def _save_order(outcome: Scored | NotScored) -> bytes:
    return outcome.result.content_sha256 if isinstance(outcome, Scored) else b""
