"""The workers that are ready, and the models that they serve. Each worker renews its row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, exists, func, literal, select

from hilum.db import jobs
from hilum.db.connection import insert_into
from hilum.db.states import JobStatus
from hilum.db.tables import jobs as jobs_table
from hilum.db.tables import models, workers
from hilum.errors import PreprocessingChangedError

_FORGET: Final = timedelta(days=7)
# A model that was served until so recently may come back: its workers may be restarting.
_PATIENCE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The live workers of one model."""

    model_id: int
    workers: int
    processes: int


def beat(
    connection: Connection,
    worker_id: str,
    *,
    model_id: int,
    queues: Collection[str],
    processes: int,
    alive_s: float,
) -> None:
    """Note that the worker is ready, and will be for ``alive_s`` seconds at least."""
    now = datetime.now(UTC)
    seen = {"seen_at": now, "alive_until": now + timedelta(seconds=alive_s)}
    row = {"id": worker_id, "model_id": model_id, "queues": [*queues], "processes": processes}
    new = insert_into(connection, workers).values(**row, **seen, started_at=now)
    connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=seen))
    connection.execute(delete(workers).where(workers.c.alive_until < now - _FORGET))


def leave(connection: Connection, worker_id: str) -> None:
    """Note that the worker has stopped. Its row stays, so that one that restarts is expected."""
    now = datetime.now(UTC)
    own = workers.update().where(workers.c.id == worker_id)
    connection.execute(own.values(seen_at=now, alive_until=now))


def live(connection: Connection) -> list[Serving]:
    """What the live workers serve, one entry a model."""
    query = (
        select(
            workers.c.model_id,
            func.count().label("workers"),
            func.sum(workers.c.processes).label("processes"),
        )
        .where(workers.c.alive_until > datetime.now(UTC))
        .group_by(workers.c.model_id)
        .order_by(workers.c.model_id)
    )
    return [
        Serving(model_id=row.model_id, workers=row.workers, processes=int(row.processes))
        for row in connection.execute(query)
    ]


def equivalent(connection: Connection, model_id: int) -> int:
    """The model that live workers serve of the package of ``model_id``: the same one, or the
    package with the preprocessing of another version of hilum; ``model_id`` if none is served."""
    served = [one.model_id for one in live(connection)]
    if model_id in served or not served:
        return model_id
    digest = select(models.c.digest).where(models.c.id == model_id).scalar_subquery()
    same = select(models.c.id).where(models.c.digest == digest, models.c.id.in_(served))
    found = connection.execute(same.order_by(models.c.id.desc()).limit(1)).scalar()
    return model_id if found is None else int(found)


def changed(connection: Connection, model_id: int) -> bool:
    """Whether live workers serve the package of this model, but all with another preprocessing,
    and have done so for minutes."""
    recently = datetime.now(UTC) - _PATIENCE
    still = select(workers.c.id).where(
        workers.c.model_id == model_id, workers.c.alive_until > recently
    )
    if connection.execute(still.limit(1)).first() is not None:
        return False
    return equivalent(connection, model_id) != model_id


def end_jobs_of_changed_models(connection: Connection, *, limit: int = 100) -> int:
    """End jobs that are bound to a model whose preprocessing no worker has any more, with a typed
    error. Without this they would be published for ever. Returns their number."""
    now = datetime.now(UTC)
    other = models.alias("other")
    served = exists(
        select(literal(1))
        .select_from(other.join(workers, workers.c.model_id == other.c.id))
        .where(
            other.c.digest == models.c.digest,
            other.c.id != models.c.id,
            workers.c.alive_until > now,
        )
    )
    bound = (
        select(jobs_table.c.id, jobs_table.c.model_id)
        .join(models, models.c.id == jobs_table.c.model_id)
        .where(
            jobs_table.c.status == JobStatus.QUEUED,
            jobs_table.c.created_at < now - _PATIENCE,
            served,
        )
        .limit(limit)
    )
    ended = 0
    for row in connection.execute(bound).all():
        if not changed(connection, row.model_id):
            continue
        claim = jobs.claim(
            connection, row.id, lease_s=60, max_unreported=10**6, model_id=row.model_id
        )
        if claim is not None:
            error = PreprocessingChangedError(
                "The job is bound to a preprocessing of the package that this version has changed.",
                next_step="Send the study again, or create the campaign again.",
            )
            jobs.quarantine(connection, claim, error)
            ended += 1
    return ended
