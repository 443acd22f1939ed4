"""Which processes serve a model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update

from hilum.db import presence
from hilum.db.connection import Database
from hilum.db.tables import workers
from hilum.queue import Queue


def test_a_process_is_counted_while_it_is_seen(database: Database, model_id: int) -> None:
    with database.write() as connection:
        for worker in ("wk_1", "wk_2", "wk_1"):
            presence.show(connection, worker, model_id=model_id, queues=list(Queue))
        assert presence.count(connection, model_id, within_s=60) == 2
        assert presence.count(connection, model_id + 1, within_s=60) == 0
        then = datetime.now(UTC) - timedelta(minutes=5)
        silent = update(workers).where(workers.c.id == "wk_1").values(seen_at=then)
        connection.execute(silent)
        assert presence.count(connection, model_id, within_s=60) == 1
        assert presence.count(connection, model_id, within_s=600) == 2


def test_who_is_long_gone_is_forgotten(database: Database, model_id: int) -> None:
    with database.write() as connection:
        presence.show(connection, "wk_1", model_id=model_id, queues=[Queue.STAT])
        then = datetime.now(UTC) - timedelta(days=2)
        connection.execute(update(workers).values(seen_at=then))
        presence.show(connection, "wk_2", model_id=model_id, queues=[Queue.STAT])
        row = connection.execute(select(workers)).one()
    assert (row.id, row.queues) == ("wk_2", ["stat"])
