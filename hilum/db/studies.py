"""Studies: register them, and read their state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Connection, Select, bindparam, func, insert, select, true

from hilum.db import schedule, serving
from hilum.db.connection import Database, insert_or_ignore
from hilum.db.display import FIRST_JOB, SHOWN, STUDY, TENANT, parameters
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import idempotency_keys, images, items, jobs, models, studies
from hilum.errors import ErrorBody, IdempotencyKeyReusedError
from hilum.ids import new_id
from hilum.queue import Queue, route


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """The state of a study, as :mod:`hilum.db.display` decides it."""

    id: str
    tenant: str
    created_at: datetime
    job_id: str  # a live job; the fields from here to `error` are the state of this job
    queue: Queue
    status: JobStatus
    attempts: int
    finished_at: datetime | None
    error: ErrorBody | None  # the last error of the job as a whole
    # Of the images as they are shown, zeros included; empty if they were not counted.
    counts: dict[ItemStatus, int]


@dataclass(frozen=True, kw_only=True)
class ImageState:
    """The state of an image, as :mod:`hilum.db.display` decides it."""

    id: str
    study_id: str
    position: int
    uri: str
    status: ItemStatus
    result_id: int | None
    error: ErrorBody | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The study and the job that a request led to."""

    study_id: str
    job_id: str
    route: str  # the queue of the broker to publish the job on
    created: bool  # false: the same request was accepted before


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """The Idempotency-Key of a client and the digest of its request."""

    key: str
    request_sha256: bytes


def submit(
    database: Database,
    *,
    tenant: str,
    queue: Queue,
    uris: Sequence[str],
    idempotency: Idempotency | None = None,
    model_id: int | None = None,
    object_wait_s: float | None = None,
) -> Submission:
    """Register a study with one job, in one transaction. Publish the job after this returns.

    A repeated request with the same key gets the study of the first one. If both arrive together,
    the second waits until the first is committed.

    Args:
        uris: of the images, in the client's order.
        model_id: binds the job to this registered model; ``None``: to the model in force for the
            tenant, or to none if there is none, so that any worker may score it.
        object_wait_s: for so many seconds from now an object that does not exist may still arrive;
            ``None``: as ``HILUM_WORKER__OBJECT_WAIT_S`` of the workers says.

    Raises:
        IdempotencyKeyReusedError: the key was used for another request.
    """
    try:
        with database.write() as connection:
            return _find_earlier(connection, tenant, idempotency) or _create(
                connection,
                tenant=tenant,
                queue=queue,
                uris=uris,
                idempotency=idempotency,
                model_id=model_id,
                object_wait_s=object_wait_s,
            )
    except _KeyTaken:
        with database.read() as connection:
            earlier = _find_earlier(connection, tenant, idempotency)
        assert earlier is not None
        return earlier


class _KeyTaken(Exception):  # noqa: N818 -- it never leaves this module
    """Another transaction has just committed the same idempotency key."""


def _create(
    connection: Connection,
    *,
    tenant: str,
    queue: Queue,
    uris: Sequence[str],
    idempotency: Idempotency | None,
    model_id: int | None,
    object_wait_s: float | None,
) -> Submission:
    now = datetime.now(UTC)
    study_id = new_id("st")
    connection.execute(insert(studies).values(id=study_id, tenant=tenant, created_at=now))
    if idempotency is not None:
        claim = (
            insert_or_ignore(connection, idempotency_keys)
            .values(tenant=tenant, study_id=study_id, created_at=now, **vars(idempotency))
            .returning(idempotency_keys.c.study_id)  # rowcount is not kept for an INSERT
        )
        if connection.execute(claim).first() is None:
            raise _KeyTaken
    if model_id is None:
        model_id = serving.choose(connection, tenant, study_id)
    image_ids = [new_id("im") for _ in uris]
    rows = [
        {"id": image_id, "study_id": study_id, "position": n, "uri": uri}
        for n, (image_id, uri) in enumerate(zip(image_ids, uris, strict=True))
    ]
    connection.execute(insert(images), rows)
    job_id = add_job(
        connection,
        tenant=tenant,
        study_id=study_id,
        image_ids=image_ids,
        queue=queue,
        model_id=model_id,
        object_wait_s=object_wait_s,
    )
    digest = None
    if model_id is not None:
        bound = select(models.c.digest).where(models.c.id == model_id)
        digest = connection.execute(bound).scalar_one()
    return Submission(study_id=study_id, job_id=job_id, route=route(queue, digest), created=True)


def add_job(
    connection: Connection,
    *,
    tenant: str,
    study_id: str,
    image_ids: Sequence[str],
    queue: Queue,
    model_id: int | None = None,
    campaign_id: str | None = None,
    object_wait_s: float | None = None,
) -> str:
    """Add a job over these images of a study and return its id. A worker's sweeper publishes it.

    Args:
        model_id: binds the job to this registered model; ``None``: any worker may score it.
        campaign_id: the campaign that the job belongs to; its results are not shown before its
            model is in force. ``None``: the job is live.
        object_wait_s: see :func:`submit`.
    """
    now, job_id = datetime.now(UTC), new_id("jb")
    due = None if object_wait_s is None else now + timedelta(seconds=object_wait_s)
    connection.execute(
        insert(jobs).values(
            id=job_id,
            study_id=study_id,
            tenant=tenant,
            queue=queue,
            model_id=model_id,
            campaign_id=campaign_id,
            status=JobStatus.QUEUED,
            created_at=now,
            objects_due_at=due,
            **schedule.times_of_new_job(now, bound=model_id is not None),
        )
    )
    pending = [
        {"job_id": job_id, "image_id": each, "status": ItemStatus.PENDING} for each in image_ids
    ]
    connection.execute(insert(items), pending)
    return job_id


def _find_earlier(
    connection: Connection, tenant: str, idempotency: Idempotency | None
) -> Submission | None:
    """The submission of the first request with this key."""
    if idempotency is None:
        return None
    query = (
        select(
            idempotency_keys.c.study_id,
            idempotency_keys.c.request_sha256,
            jobs.c.id,
            jobs.c.queue,
            models.c.digest,
        )
        .join(jobs, jobs.c.study_id == idempotency_keys.c.study_id)
        .outerjoin(models, models.c.id == jobs.c.model_id)
        .where(idempotency_keys.c.tenant == tenant, idempotency_keys.c.key == idempotency.key)
        .order_by(jobs.c.id)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise IdempotencyKeyReusedError("This Idempotency-Key was used for another request.")
    return Submission(
        study_id=row.study_id,
        job_id=row.id,
        route=route(Queue(row.queue), row.digest),
        created=False,
    )


def get(
    connection: Connection, *, tenant: str, study_id: str, count: bool = True
) -> StudyState | None:
    """The state of the study; ``None`` if the tenant has no such study.

    Args:
        count: whether to count its images, for which all of them are looked at.
    """
    statement = _COUNTED_STUDY if count else _STUDY
    rows = connection.execute(statement, parameters(tenant, study_id)).all()
    if not rows:
        return None
    counts = {}
    if count:
        counts = dict.fromkeys(ItemStatus, 0) | {ItemStatus(row.shown): row.images for row in rows}
    values = rows[0]._mapping
    return StudyState(
        id=values[studies.c.id],
        tenant=values[studies.c.tenant],
        created_at=values[studies.c.created_at],
        job_id=values[jobs.c.id],
        queue=Queue(values[jobs.c.queue]),
        status=JobStatus(values[jobs.c.status]),
        attempts=values[jobs.c.attempts],
        finished_at=values[jobs.c.finished_at],
        error=cast(ErrorBody | None, values[jobs.c.error]),
        counts=counts,
    )


def list_images(
    connection: Connection, *, study: StudyState, after: int = -1, limit: int = 100
) -> list[ImageState]:
    """The study's images by position, those beyond position ``after`` (a keyset cursor)."""
    values = parameters(study.tenant, study.id) | {"after": after, "page_size": limit}
    return [_image(study, row) for row in connection.execute(_PAGE, values)]


def get_image(connection: Connection, *, study: StudyState, image_id: str) -> ImageState | None:
    """One image of the study."""
    values = parameters(study.tenant, study.id) | {"wanted": image_id}
    row = connection.execute(_IMAGE, values).one_or_none()
    return None if row is None else _image(study, row)


def _image(study: StudyState, row: Iterable[Any]) -> ImageState:
    image_id, position, uri, status, result_id, error = row
    return ImageState(
        id=image_id,
        study_id=study.id,
        position=position,
        uri=uri,
        status=ItemStatus(status),
        result_id=result_id,
        error=cast(ErrorBody | None, error),
    )


def _select_study() -> Select[Any]:
    """The study with its first live job."""
    job = (
        select(jobs.c.id)
        .where(jobs.c.study_id == STUDY, jobs.c.campaign_id.is_(None))
        .order_by(*FIRST_JOB)
        .limit(1)
    )
    return (
        select(studies.c.id, studies.c.tenant, studies.c.created_at, jobs)
        .select_from(studies)
        .join(jobs, jobs.c.id == job.scalar_subquery())
        .where(studies.c.id == STUDY, studies.c.tenant == TENANT)
    )


_TALLY: Final = (
    select(SHOWN.c.status.label("shown"), func.count().label("images"))
    .group_by(SHOWN.c.status)
    .subquery("tally")
)
_STUDY: Final = _select_study()
# One row for each status of its images.
_COUNTED_STUDY: Final = _STUDY.join(_TALLY, true()).add_columns(*_TALLY.c)
_IMAGE: Final = select(SHOWN).where(SHOWN.c.image_id == bindparam("wanted"))
_PAGE: Final = (
    select(SHOWN)
    .where(SHOWN.c.position > bindparam("after"))
    .order_by(SHOWN.c.position)
    .limit(bindparam("page_size"))
)
