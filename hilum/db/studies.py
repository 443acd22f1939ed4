"""Registering studies and reading how they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Connection, Row, Select, func, insert, select

from hilum.db.connection import Database, insert_or_ignore
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import idempotency_keys, images, items, jobs, studies
from hilum.errors import ErrorBody, IdempotencyKeyReusedError
from hilum.ids import new_id
from hilum.queue import Queue


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """A study and its newest job."""

    id: str
    tenant: str
    created_at: datetime
    job_id: str
    queue: Queue
    status: JobStatus
    attempts: int
    finished_at: datetime | None
    error: ErrorBody | None  # the last one, of the job as a whole
    counts: dict[ItemStatus, int]  # every status, zeros included


@dataclass(frozen=True, kw_only=True)
class ImageState:
    """An image within the study's newest job."""

    id: str
    study_id: str
    position: int
    uri: str
    status: ItemStatus
    result_id: int | None
    error: ErrorBody | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What submitting a study came to."""

    study_id: str
    job_id: str
    created: bool  # false: the same request had been accepted before


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """A client's Idempotency-Key and the digest of the request it came with."""

    key: str
    request_sha256: bytes


def submit(
    database: Database,
    *,
    tenant: str,
    queue: Queue,
    uris: Sequence[str],
    idempotency: Idempotency | None = None,
) -> Submission:
    """Register a study with one job, in one transaction; publish the job after this returns.

    A repeated request with the same key gets the study of the first one, also when both
    arrive together: the second waits for the first to commit.

    Raises:
        IdempotencyKeyReusedError: the key came with another request before.
    """
    try:
        with database.write() as connection:
            known = _repeated(connection, tenant=tenant, idempotency=idempotency)
            return known or _create(connection, tenant, queue, uris, idempotency)
    except _KeyTaken:
        with database.read() as connection:
            known = _repeated(connection, tenant=tenant, idempotency=idempotency)
        assert known is not None
        return known


class _KeyTaken(Exception):  # noqa: N818 -- it steers, and never leaves this module
    """Another transaction has just committed the same idempotency key."""


def _create(
    connection: Connection,
    tenant: str,
    queue: Queue,
    uris: Sequence[str],
    idempotency: Idempotency | None,
) -> Submission:
    now = datetime.now(UTC)
    study_id, job_id = new_id("st"), new_id("jb")
    connection.execute(insert(studies).values(id=study_id, tenant=tenant, created_at=now))
    if idempotency is not None:
        claim = (
            insert_or_ignore(connection, idempotency_keys)
            .values(
                tenant=tenant,
                key=idempotency.key,
                request_sha256=idempotency.request_sha256,
                study_id=study_id,
                created_at=now,
            )
            .returning(idempotency_keys.c.study_id)  # rowcount is not kept for an INSERT
        )
        if connection.execute(claim).first() is None:
            raise _KeyTaken
    connection.execute(
        insert(jobs).values(
            id=job_id,
            study_id=study_id,
            tenant=tenant,
            queue=queue,
            status=JobStatus.QUEUED,
            available_at=now,
            created_at=now,
        )
    )
    rows = [
        {"id": new_id("im"), "study_id": study_id, "position": n, "uri": uri}
        for n, uri in enumerate(uris)
    ]
    connection.execute(insert(images), rows)
    connection.execute(
        insert(items),
        [{"job_id": job_id, "image_id": row["id"], "status": ItemStatus.PENDING} for row in rows],
    )
    return Submission(study_id=study_id, job_id=job_id, created=True)


def _repeated(
    connection: Connection, *, tenant: str, idempotency: Idempotency | None
) -> Submission | None:
    if idempotency is None:
        return None
    query = (
        select(idempotency_keys.c.study_id, idempotency_keys.c.request_sha256, jobs.c.id)
        .join(jobs, jobs.c.study_id == idempotency_keys.c.study_id)
        .where(idempotency_keys.c.tenant == tenant, idempotency_keys.c.key == idempotency.key)
        .order_by(jobs.c.id)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise IdempotencyKeyReusedError("This Idempotency-Key was used for another request.")
    return Submission(study_id=row.study_id, job_id=row.id, created=False)


def get(connection: Connection, *, tenant: str, study_id: str) -> StudyState | None:
    """How the study stands; ``None`` if the tenant has no such study."""
    query = (
        select(studies.c.id, studies.c.tenant, studies.c.created_at, jobs)
        .join(jobs, jobs.c.study_id == studies.c.id)
        .where(studies.c.id == study_id, studies.c.tenant == tenant)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job_id = row._mapping[jobs.c.id]
    counted = dict.fromkeys(ItemStatus, 0)
    tally = (
        select(items.c.status, func.count())
        .where(items.c.job_id == job_id)
        .group_by(items.c.status)
    )
    for status, count in connection.execute(tally):
        counted[ItemStatus(status)] = count
    values = row._mapping
    return StudyState(
        id=values[studies.c.id],
        tenant=values[studies.c.tenant],
        created_at=values[studies.c.created_at],
        job_id=job_id,
        queue=Queue(values[jobs.c.queue]),
        status=JobStatus(values[jobs.c.status]),
        attempts=values[jobs.c.attempts],
        finished_at=values[jobs.c.finished_at],
        error=cast(ErrorBody | None, values[jobs.c.error]),
        counts=counted,
    )


def list_images(
    connection: Connection, *, study: StudyState, after: int = -1, limit: int = 100
) -> list[ImageState]:
    """The study's images by position, those beyond position ``after`` (a keyset cursor)."""
    query = (
        _image_query(study.job_id)
        .where(images.c.position > after)
        .order_by(images.c.position)
        .limit(limit)
    )
    return [_image(row) for row in connection.execute(query)]


def get_image(connection: Connection, *, study: StudyState, image_id: str) -> ImageState | None:
    """One image of the study."""
    query = _image_query(study.job_id).where(images.c.id == image_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _image(row)


def _image_query(job_id: str) -> Select[Any]:
    return (
        select(
            images,
            items.c.status,
            items.c.result_id,
            items.c.error,
            items.c.finished_at,
        )
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.job_id == job_id)
    )


def _image(row: Row[Any]) -> ImageState:
    return ImageState(
        id=row.id,
        study_id=row.study_id,
        position=row.position,
        uri=row.uri,
        status=ItemStatus(row.status),
        result_id=row.result_id,
        error=cast(ErrorBody | None, row.error),
        finished_at=row.finished_at,
    )
