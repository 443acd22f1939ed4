"""The trace context of a job, where the worker that claims it finds it.

A message carries the context, too, but a worker claims what SQL says comes next, and that may be
another job than the message's. Nothing is read or written while tracing is off.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select, update

from hilum.db.tables import jobs


def remember(connection: Connection, job_id: str, traceparent: str) -> None:
    """Keep the ``traceparent`` of the span that publishes the job."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(traceparent=traceparent))


def find(connection: Connection, job_ids: Collection[str]) -> dict[str, str]:
    """The ``traceparent`` by job, of those that have one."""
    query = select(jobs.c.id, jobs.c.traceparent).where(
        jobs.c.id.in_(job_ids), jobs.c.traceparent.is_not(None)
    )
    return {row.id: row.traceparent for row in connection.execute(query)}
