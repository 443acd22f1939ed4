"""The workers that are ready, and the models that they serve. Each worker renews its row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, delete, exists, literal, select

from hilum.db import jobs
from hilum.db.connection import insert_into
from hilum.db.states import JobStatus
from hilum.db.tables import jobs as jobs_table
from hilum.db.tables import models, workers
from hilum.errors import ModelUnservedError, PreprocessingChangedError
from hilum.queue import Queue

_FORGET: Final = timedelta(days=7)
# A model that was served until so recently may come back: its workers may be restarting.
_PATIENCE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The live workers of one model."""

    model_id: int
    workers: int
    processes: int
    queues: frozenset[Queue]  # that one of them reads


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
        select(workers.c.model_id, workers.c.processes, workers.c.queues)
        .where(workers.c.alive_until > datetime.now(UTC))
        .order_by(workers.c.model_id)
    )
    found: list[Serving] = []
    for model_id, rows in groupby(connection.execute(query), key=lambda row: int(row.model_id)):
        own = [*rows]
        names = {name for row in own for name in row.queues}
        found.append(
            Serving(
                model_id=model_id,
                workers=len(own),
                processes=sum(row.processes for row in own),
                queues=frozenset(queue for queue in Queue if queue in names),
            )
        )
    return found


def require(connection: Connection, model_id: int) -> None:
    """Refuse a model that new studies must not be bound to, because they would wait for ever.

    Raises:
        ModelUnservedError: no live worker serves the model, or none of them reads some queue.
    """
    found = next((one for one in live(connection) if one.model_id == model_id), None)
    if found is None:
        raise ModelUnservedError("No live worker serves the model.")
    if missing := [queue.value for queue in Queue if queue not in found.queues]:
        raise ModelUnservedError(
            f"No live worker of the model reads the queues {', '.join(missing)}.",
            next_step="Start workers of the model for all queues, without --queues.",
        )


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


def jobs_of_changed_models(connection: Connection, *, limit: int = 100) -> list[tuple[str, int]]:
    """Queued jobs, with their models, that are bound to a preprocessing which no worker has any
    more, though workers serve the package. They would be published for ever."""
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
    query = (
        select(jobs_table.c.id, jobs_table.c.model_id)
        .join(models, models.c.id == jobs_table.c.model_id)
        .where(
            jobs_table.c.status == JobStatus.QUEUED,
            jobs_table.c.created_at < now - _PATIENCE,
            served,
        )
        .limit(limit)
    )
    bound = [(row.id, row.model_id) for row in connection.execute(query)]
    gone = {model_id for _, model_id in bound if changed(connection, model_id)}
    return [(job_id, model_id) for job_id, model_id in bound if model_id in gone]


def end_job_of_changed_model(connection: Connection, job_id: str, model_id: int) -> None:
    """End such a job with its error, unless a worker has it after all."""
    claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=10**6, model_id=model_id)
    if claim is not None:
        error = PreprocessingChangedError(
            "The job is bound to a preprocessing of the package that this version has changed.",
            next_step="Send the study again, or create the campaign again.",
        )
        jobs.quarantine(connection, claim, error)
