"""The life of a job: it is claimed under a lease, scored image by image, and ends once.

Every change by a worker is fenced (:mod:`hilum.db.leases`): a worker whose lease has passed to
another gets :class:`LeaseLostError`, and nothing is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from hilum.db import instances, schedule
from hilum.db.choosing import Room, choose
from hilum.db.claims import Claim, NotScored, PendingImage, Scored
from hilum.db.connection import insert_or_ignore
from hilum.db.instances import NewInstance
from hilum.db.leases import LeasedTable, error_columns
from hilum.db.results import save_many
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.tables import UtcDateTime, images, items, jobs, outbox
from hilum.errors import AttemptsExhaustedError, HilumError, LeaseLostError
from hilum.queue import Queue

_NO_ERROR: Final = {"error_code": None, "error": None}
_COMPLETED: Final = {"status": JobStatus.COMPLETED, **_NO_ERROR}
_FAILED: Final = {"status": JobStatus.FAILED}
LEASED: Final = LeasedTable(
    table=jobs,
    noun="job",
    free=lambda now: or_(
        and_(jobs.c.status == JobStatus.QUEUED, schedule.is_due(now)),
        and_(jobs.c.status == JobStatus.RUNNING, schedule.lease_is_over(now)),
    ),
    held=jobs.c.status == JobStatus.RUNNING,
    on_take={"status": JobStatus.RUNNING},
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
    """Claim this job, if it is free and may be scored by ``model_id``; otherwise ``None``. See
    :func:`claim_next`."""
    bound_to = or_(jobs.c.model_id.is_(None), jobs.c.model_id == model_id)
    row = LEASED.take(connection, job_id, bound_to, lease_s=lease_s, returning=_CLAIMED)
    claims = _claims(connection, [] if row is None else [row], max_unreported)
    return claims[0] if claims else None


def claim_next(
    connection: Connection,
    rooms: Sequence[Room],
    *,
    lease_s: float,
    max_unreported: int,
    model_id: int | None,
    max_running_jobs: int | None = None,
) -> list[Claim]:
    """Claim the jobs that come next (:mod:`hilum.db.choosing`), the most urgent first.

    Args:
        connection: a transaction for writing.
        rooms: how much the worker can take of each priority, from most to least urgent.
        lease_s: the duration of the leases; the worker renews them.
        max_unreported: how many workers in a row may die while they work on a job. Beyond that, a
            job is quarantined here instead of claimed.
        model_id: the model that the worker serves. Jobs that are bound to others are not claimed.
        max_running_jobs: of a tenant without a limit of its own; ``None``: no limit.
    """
    chosen = choose(connection, rooms, model_id=model_id, max_running_jobs=max_running_jobs)
    if not chosen:
        return []
    rows = LEASED.take_many(connection, chosen, lease_s=lease_s, returning=_CLAIMED)
    ordered = sorted(rows, key=lambda row: chosen.index(row.id))
    return _claims(connection, ordered, max_unreported)


def renew(connection: Connection, claim: Claim, *, lease_s: float) -> None:
    """Hold the job for another ``lease_s`` seconds. This does not reset the counters of workers
    that did not report back."""
    LEASED.renew(connection, claim.job_id, claim.attempt, lease_s=lease_s)


def renew_many(connection: Connection, claims: Iterable[Claim], *, lease_s: float) -> set[str]:
    """:func:`renew` of several jobs. Returns the ids of those that are still held."""
    held = {claim.job_id: claim.attempt for claim in claims}
    return LEASED.renew_many(connection, held, lease_s=lease_s)


def begin(
    connection: Connection, claim: Claim, image_ids: Sequence[str], *, lease_s: float
) -> None:
    """:func:`begin_many` of one job.

    Raises:
        LeaseLostError: another worker has claimed the job, or it has ended.
    """
    _check_held(claim, begin_many(connection, [(claim, image_ids)], first=[claim], lease_s=lease_s))


def begin_many(
    connection: Connection,
    starts: Sequence[tuple[Claim, Sequence[str]]],
    *,
    first: Sequence[Claim],
    lease_s: float,
) -> set[str]:
    """Note that work on images starts, before any of them is fetched.

    If the worker dies, the next one knows which images were in flight, and which jobs.

    Args:
        starts: claims with the ids of their images.
        first: those of these claims that begin their first images.

    Returns:
        The ids of the jobs that are still held. Of the others nothing was noted.
    """
    claims = {claim.job_id: claim for claim, _ in starts}
    held = renew_many(connection, claims.values(), lease_s=lease_s)
    for unreported in {claim.unreported for claim in first}:
        now_first = [c.job_id for c in first if c.unreported == unreported and c.job_id in held]
        connection.execute(
            update(jobs).where(jobs.c.id.in_(now_first)).values(unreported=unreported + 1)
        )
    begun = [
        (claim.job_id, image) for claim, ids in starts if claim.job_id in held for image in ids
    ]
    _count_start(connection, begun, by=1)
    return held


def record(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[Scored | NotScored],
    *,
    lease_s: float,
) -> bool:
    """:func:`record_many` of one job. Returns whether the job has ended.

    Raises:
        LeaseLostError: another worker has claimed the job, or it has ended.
    """
    recorded = record_many(connection, [(claim, outcomes)], lease_s=lease_s)
    _check_held(claim, recorded.held)
    return claim.job_id in recorded.ended


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What became of the jobs whose outcomes were written, by their ids."""

    held: set[str]  # of the others nothing was written: their leases have passed to others
    ended: set[str]


def record_many(
    connection: Connection,
    work: Sequence[tuple[Claim, Sequence[Scored | NotScored]]],
    *,
    lease_s: float,
) -> Recorded:
    """Write outcomes and their instances. Each job whose last image has ended ends in the same
    transaction, with its event in the outbox."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {"lease_until": now + timedelta(seconds=lease_s), "unreported": 0}
    # The fence comes first: it also locks the rows of the jobs until this transaction ends.
    fruitful = {claim.job_id: claim.attempt for claim, outcomes in work if outcomes}
    barren = {claim.job_id: claim.attempt for claim, outcomes in work if not outcomes}
    progress = {"deferrals": 0, "failing_since": None}
    held = LEASED.update_held(connection, fruitful, {**values, **progress})
    held |= LEASED.update_held(connection, barren, values)
    ours = [(claim, each) for claim, outcomes in work if claim.job_id in held for each in outcomes]
    seen: dict[str, list[NewInstance]] = defaultdict(list)
    for claim, outcome in ours:
        if outcome.instance is not None:
            seen[claim.tenant].append(outcome.instance)
    for tenant in sorted(seen):
        instances.record(connection, tenant=tenant, seen=seen[tenant])
    _end_items(connection, ours, now)
    pending = exists().where(items.c.job_id == jobs.c.id, items.c.status == ItemStatus.PENDING)
    over = select(jobs.c.id).where(jobs.c.id.in_(held), ~pending)
    ended = set(connection.execute(over).scalars())
    _end(connection, [c for c, _ in work if c.job_id in ended], Event.JOB_COMPLETED, _COMPLETED)
    return Recorded(held=held, ended=ended)


def defer(
    connection: Connection,
    claim: Claim,
    error: HilumError,
    *,
    delay_s: float,
    images: Mapping[str, HilumError],
    refunded: Sequence[str] = (),
) -> None:
    """Give the job back after transient errors; it is due again after ``delay_s`` seconds.

    Args:
        error: becomes the last error of the job.
        images: the images that failed, each with its own error. Their worker is alive, so they no
            longer count as images that may kill a worker.
        refunded: as of :func:`release`.
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
    _count_start(connection, [(claim.job_id, image_id) for image_id in refunded], by=-1)


def release(connection: Connection, claim: Claim, *, refunded: Sequence[str] = ()) -> None:
    """Give the job back without an error; any worker may continue it. The attempt does not count.

    Args:
        refunded: images that were begun and are given back unfinished by a worker that ends in
            order. Their start does not count either.
    """
    values = _values_of_queued(datetime.now(UTC))
    LEASED.give_back(connection, claim.job_id, claim.attempt, values)
    _count_start(connection, [(claim.job_id, image_id) for image_id in refunded], by=-1)


def quarantine(connection: Connection, claim: Claim, error: HilumError) -> None:
    """End the job with its error. Scored images keep their results; a pending image keeps its own
    transient error if it has one, and otherwise gets the error of the job."""
    now = datetime.now(UTC)
    _end(connection, [claim], Event.JOB_FAILED, {**_FAILED, **error_columns(error)})
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


def _claims(connection: Connection, rows: Sequence[Row[Any]], max_unreported: int) -> list[Claim]:
    """The claims of these rows, without those that had to be quarantined."""
    pending = _pending(connection, [row.id for row in rows])
    claims = []
    for row in rows:
        fields = {**row._mapping, "attempt": row.attempts, "queue": Queue(row.queue)}
        fields |= {"job_id": fields.pop("id"), "pending": tuple(pending[row.id])}
        del fields["attempts"]
        claim = Claim(**fields)
        if row.unreported >= max_unreported:
            cause = AttemptsExhaustedError(
                f"{max_unreported} workers in a row took this job and did not come back."
            )
            quarantine(connection, claim, cause)
            continue
        claims.append(claim)
    return claims


def _pending(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[PendingImage]]:
    columns = (items.c.job_id, items.c.unreported, items.c.error_code)
    query = (
        select(images.c.id, images.c.position, images.c.uri, *columns)
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.job_id.in_(job_ids), items.c.status == ItemStatus.PENDING)
        .order_by(items.c.job_id, images.c.position)
    )
    found: dict[str, list[PendingImage]] = defaultdict(list)
    for row in connection.execute(query) if job_ids else ():
        image = PendingImage(
            image_id=row.id,
            position=row.position,
            uri=row.uri,
            unreported=row.unreported,
            deferred=row.error_code is not None,
        )
        found[row.job_id].append(image)
    return found


def _check_held(claim: Claim, held: set[str]) -> None:
    if claim.job_id not in held:
        raise LeaseLostError("The job was claimed by another worker or has ended.")


def _count_start(
    connection: Connection, images_of_jobs: Sequence[tuple[str, str]], *, by: int
) -> None:
    if not images_of_jobs:
        return
    connection.execute(
        update(items)
        .where(
            items.c.job_id == bindparam("of_job"),
            items.c.image_id == bindparam("of_image"),
            items.c.unreported + by >= 0,
        )
        .values(unreported=items.c.unreported + by),
        [{"of_job": job_id, "of_image": image_id} for job_id, image_id in images_of_jobs],
    )


def _end_items(
    connection: Connection, ours: Sequence[tuple[Claim, Scored | NotScored]], now: datetime
) -> None:
    new = [(c.tenant, each.result) for c, each in ours if isinstance(each, Scored)]
    result_ids = iter(save_many(connection, new))
    ends: list[dict[str, Any]] = []
    for claim, each in ours:
        end: dict[str, Any] = {"of_job": claim.job_id, "of_image": each.image_id}
        if isinstance(each, Scored):
            end |= {"status": ItemStatus.SCORED, "result_id": next(result_ids), **_NO_ERROR}
        else:
            end |= {"status": each.status, "result_id": None, **error_columns(each.error)}
        ends.append(end)
    if not ends:
        return
    columns = ("status", "result_id", "error_code", "error")
    connection.execute(
        update(items)
        .where(
            items.c.job_id == bindparam("of_job"),
            items.c.image_id == bindparam("of_image"),
            items.c.status == ItemStatus.PENDING,
        )
        .values({**{name: bindparam(name) for name in columns}, "finished_at": now}),
        ends,
    )


def _end(
    connection: Connection, claims: Sequence[Claim], event: Event, values: Mapping[str, Any]
) -> None:
    if not claims:
        return
    now = datetime.now(UTC)
    ended = {"lease_until": None, "finished_at": now, "failing_since": None, **values}
    held = {claim.job_id: claim.attempt for claim in claims}
    done = LEASED.update_held(connection, held, ended)
    for claim in claims:
        _check_held(claim, done)
    connection.execute(
        insert_or_ignore(connection, outbox),
        [
            {"tenant": c.tenant, "kind": event, "job_id": c.job_id, "created_at": now}
            for c in claims
        ],
    )


_CLAIMED: Final = (
    jobs.c.id,
    jobs.c.study_id,
    jobs.c.tenant,
    jobs.c.queue,
    jobs.c.attempts,
    jobs.c.unreported,
    jobs.c.deferrals,
    jobs.c.failing_since,
    jobs.c.created_at,
    jobs.c.objects_due_at,
)


def _values_of_queued(available_at: datetime) -> dict[str, Any]:
    return {
        "status": JobStatus.QUEUED,
        "unreported": 0,
        "available_at": available_at,
        "published_at": None,
    }
