"""Which processes serve which model, as they say themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, select

from hilum.db.connection import insert_into
from hilum.db.tables import workers
from hilum.queue import Queue

_FORGET_S = 24 * 3600.0


def show(connection: Connection, worker_id: str, *, model_id: int, queues: Sequence[Queue]) -> None:
    """Note that this process serves the model now. Call it at least as often as leases are
    renewed."""
    now = datetime.now(UTC)
    new = insert_into(connection, workers).values(
        id=worker_id, model_id=model_id, queues=list(queues), started_at=now, seen_at=now
    )
    again = {"seen_at": new.excluded.seen_at, "model_id": new.excluded.model_id}
    connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=again))
    old = now - timedelta(seconds=_FORGET_S)
    connection.execute(delete(workers).where(workers.c.seen_at < old))


def count(connection: Connection, model_id: int, *, within_s: float) -> int:
    """The number of processes that serve the model and were seen within so many seconds."""
    since = datetime.now(UTC) - timedelta(seconds=within_s)
    query = select(func.count()).where(workers.c.model_id == model_id, workers.c.seen_at >= since)
    return connection.execute(query).scalar_one()
