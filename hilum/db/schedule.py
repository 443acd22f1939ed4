"""When a job is due, published and leased. Only this module reads and writes these times.

A job that is bound to a model keeps them in ``bound_available_at``, ``bound_published_at`` and
``bound_lease_until``. Its ``available_at`` lies in the year 9999 and its ``published_at`` and
``lease_until`` are null: the sweeper of the release before knows only these three columns and
never finds such a job. Of a job that any worker may score, the ``bound_`` columns are null. A
comparison with null is never true, so that each condition below matches a row by the columns in
use.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, literal, null, or_

from hilum.db.tables import jobs

_TIMES: Final = ("available_at", "published_at", "lease_until")
# Not the last day: a server's time zone could push that out of what a driver can hold.
NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


def is_due(now: datetime) -> ColumnElement[bool]:
    """A worker may claim the job."""
    return or_(jobs.c.available_at <= now, jobs.c.bound_available_at <= now)


def lease_is_over(now: datetime) -> ColumnElement[bool]:
    """The worker that took the job has not renewed its lease."""
    return or_(jobs.c.lease_until < now, jobs.c.bound_lease_until < now)


def is_published() -> ColumnElement[bool]:
    """A task of the job was published."""
    return or_(jobs.c.published_at.is_not(None), jobs.c.bound_published_at.is_not(None))


def is_unpublished() -> ColumnElement[bool]:
    """No task of the job was published."""
    return and_(jobs.c.published_at.is_(None), jobs.c.bound_published_at.is_(None))


def was_published_by(then: datetime) -> ColumnElement[bool]:
    """The task of the job was published at ``then`` or before."""
    return or_(jobs.c.published_at <= then, jobs.c.bound_published_at <= then)


def order_by_wait() -> tuple[ColumnElement[Any], ...]:
    """The job that has waited longest comes first."""
    bound = jobs.c.model_id.is_not(None)
    return case((bound, jobs.c.bound_published_at), else_=jobs.c.published_at), due_at()


def due_at() -> ColumnElement[datetime]:
    """When the job became due, or will."""
    bound = jobs.c.model_id.is_not(None)
    return case((bound, jobs.c.bound_available_at), else_=jobs.c.available_at)


def times_of_new_job(now: datetime, *, bound: bool) -> dict[str, datetime]:
    """The times of a new job that is due now, for an INSERT."""
    if bound:
        return {"available_at": NEVER, "bound_available_at": now}
    return {"available_at": now}


def place_times(values: dict[str, Any]) -> dict[str, Any]:
    """Put each time among the ``values`` of an UPDATE into the column where each job keeps it.

    Args:
        values: by column; ``available_at``, ``published_at`` and ``lease_until`` stand for both
            columns of that time, and may be ``None``.
    """
    bound = jobs.c.model_id.is_not(None)
    written = {name: value for name, value in values.items() if name not in _TIMES}
    for name in _TIMES:
        if name not in values:
            continue
        if values[name] is None:
            written |= {name: None, f"bound_{name}": None}
            continue
        value = literal(values[name], jobs.c[name].type)
        written[name] = case((bound, jobs.c[name]), else_=value)
        written[f"bound_{name}"] = case((bound, value), else_=null())
    return written
