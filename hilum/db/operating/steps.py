"""Change at most so many jobs in one transaction, beside running workers.

Each step locks its jobs in the order of their ids, sees their states as they then are, changes them
and adds one row to the audit. It is idempotent: jobs that it has changed are not chosen again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from hilum.db import audit, schedule
from hilum.db.connection import insert_or_ignore
from hilum.db.leases import error_columns
from hilum.db.operating.filters import (
    IS_CANCELLED,
    JobFilter,
    has_retriable,
    has_status,
    is_retriable,
)
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.tables import items, jobs, models, outbox
from hilum.errors import JobCancelledError
from hilum.ids import new_id
from hilum.queue import Queue, route

_WINDOW: Final = 1000
_ENDED: Final = (JobStatus.COMPLETED, JobStatus.FAILED)
_ACTIVE: Final = (JobStatus.QUEUED, JobStatus.RUNNING)


class Action(StrEnum):
    """What an operator does to jobs."""

    CANCEL = "cancel"
    RETRY = "retry"
    REQUEUE = "requeue"

    @property
    def past(self) -> str:
        """As the audit and the command line say that it was done."""
        return {"cancel": "cancelled", "retry": "retried", "requeue": "requeued"}[self.value]


@dataclass(frozen=True, kw_only=True)
class Order:
    """An action and the jobs that it is for."""

    action: Action
    which: JobFilter
    actor: str  # as :func:`hilum.db.audit.append` has it
    refused: bool = False  # a retry: also images that were refused for their content

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The jobs that the action applies to, as SQL over ``jobs``."""
        which = [*self.which.conditions, *self._of_action]
        if self.action is Action.RETRY:
            which.append(has_retriable(code=self.which.code, refused=self.refused))
        return which

    @property
    def conditions_of_jobs(self) -> list[ColumnElement[bool]]:
        """Those that need the row of the job only."""
        return [*self.which.conditions_of_jobs, *self._of_action]

    @property
    def _of_action(self) -> list[ColumnElement[bool]]:
        if self.action is Action.CANCEL:
            return [has_status(*_ACTIVE)]
        if self.action is Action.REQUEUE:
            return [has_status(JobStatus.QUEUED)]
        which = [has_status(*_ENDED), jobs.c.campaign_id.is_(None)]
        if self.which.ids is None and self.which.code != JobCancelledError.code:
            which.append(~IS_CANCELLED)
        return which


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A job that a step has changed."""

    id: str
    publish: str | None  # the id of the job whose task is to be published
    route: str  # the queue of the broker for it


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step has done."""

    changed: list[Changed]
    last: str | None  # the cursor of the next step; None: no chosen job is left


def take_step(connection: Connection, order: Order, *, after: str = "", limit: int = 100) -> Step:
    """Apply the action to at most ``limit`` jobs with ids beyond ``after``.

    A cancelled job loses its lease: its worker gets ``LeaseLostError`` at its next write and
    records nothing more. What it has recorded stays.

    Args:
        connection: a transaction for writing.
        order: the action and its jobs.
        after: the cursor, ``Step.last`` of the step before.
        limit: of jobs. Their images are changed in the same transaction.

    Returns:
        The step. It may have changed nothing while there is more to do.
    """
    # The images of so many jobs are looked at, however rare those are that the order chooses.
    window = (
        select(jobs.c.id)
        .where(*order.conditions_of_jobs, jobs.c.id > after)
        .order_by(jobs.c.id)
        .limit(max(limit, _WINDOW))
        .subquery()
    )
    size, end = connection.execute(select(func.count(), func.max(window.c.id))).one()
    if end is None:
        return Step(changed=[], last=None)
    chosen = (
        select(jobs.c.id, jobs.c.tenant, jobs.c.queue, jobs.c.study_id, jobs.c.model_id)
        .where(*order.conditions, jobs.c.id > after, jobs.c.id <= end)
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(of=jobs)
    )
    rows = connection.execute(chosen).all()
    changed = _STEPS[order.action](connection, order, rows) if rows else {}
    if changed:
        tenants = {row.tenant for row in rows}
        single = order.which.ids is not None and len(rows) == 1
        audit.append(
            connection,
            tenant=tenants.pop() if len(tenants) == 1 else None,
            actor=order.actor,
            action=f"job.{order.action.past}",
            object=rows[0].id if single else "jobs",
            detail=_detail(order, changed),
        )
    routes = _routes(connection, rows)
    return Step(
        changed=[Changed(id=id, publish=new, route=routes[id]) for id, new in changed.items()],
        last=rows[-1].id if len(rows) == limit else end if size >= max(limit, _WINDOW) else None,
    )


_Row = Any  # of the jobs that a step has locked
# Each returns, by the id of a job that it has changed, the id of the job to publish.
_Changes = Mapping[str, str | None]


def _cancel(connection: Connection, _order: Order, rows: Sequence[_Row]) -> _Changes:
    now, ids = datetime.now(UTC), [row.id for row in rows]
    cause = error_columns(JobCancelledError("An operator cancelled the job."))
    ended = {"finished_at": now, **cause}
    values = {"status": JobStatus.FAILED, "lease_until": None, "failing_since": None, **ended}
    connection.execute(
        update(jobs).where(jobs.c.id.in_(ids)).values(**schedule.place_times(values))
    )
    pending = (items.c.job_id.in_(ids), items.c.status == ItemStatus.PENDING)
    connection.execute(update(items).where(*pending).values(status=ItemStatus.FAILED, **ended))
    owed = [
        {"tenant": row.tenant, "kind": Event.JOB_FAILED, "job_id": row.id, "created_at": now}
        for row in rows
    ]
    connection.execute(insert_or_ignore(connection, outbox), owed)
    return dict.fromkeys(ids)


def _requeue(connection: Connection, _order: Order, rows: Sequence[_Row]) -> _Changes:
    ids = [row.id for row in rows]
    values = {"available_at": datetime.now(UTC), "published_at": None}
    connection.execute(
        update(jobs).where(jobs.c.id.in_(ids)).values(**schedule.place_times(values))
    )
    return {each: each for each in ids}


def _retry(connection: Connection, order: Order, rows: Sequence[_Row]) -> _Changes:
    # Read after the rows are locked: another operator may just have retried the same jobs.
    again = (
        select(items.c.job_id, items.c.image_id)
        .join(jobs, jobs.c.id == items.c.job_id)
        .where(
            items.c.job_id.in_([row.id for row in rows]),
            is_retriable(code=order.which.code, refused=order.refused),
        )
    )
    found: dict[str, list[str]] = defaultdict(list)
    for job_id, image_id in connection.execute(again):
        found[job_id].append(image_id)
    if not found:
        return {}
    now = datetime.now(UTC)
    new = {row.id: new_id("jb") for row in rows if row.id in found}
    for bound in (False, True):  # they have their times in different columns
        times = schedule.times_of_new_job(now, bound=bound)
        added = [
            {
                **{"id": new[row.id], "study_id": row.study_id, "tenant": row.tenant},
                **{"queue": row.queue, "model_id": row.model_id, "status": JobStatus.QUEUED},
                **{"created_at": now, **times},
            }
            for row in rows
            if row.id in new and (row.model_id is not None) == bound
        ]
        if added:
            connection.execute(insert(jobs), added)
    connection.execute(
        insert(items),
        [
            {"job_id": new[job_id], "image_id": image_id, "status": ItemStatus.PENDING}
            for job_id, images in found.items()
            for image_id in images
        ],
    )
    return new


_STEPS: Final[dict[Action, Callable[[Connection, Order, Sequence[_Row]], _Changes]]] = {
    Action.CANCEL: _cancel,
    Action.RETRY: _retry,
    Action.REQUEUE: _requeue,
}


def _detail(order: Order, changed: _Changes) -> dict[str, Any]:
    given = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in vars(order.which).items()
        if value not in (None, False) and name != "ids"
    }
    new = [each for each in changed.values() if each is not None]
    return {
        "filter": given,
        "jobs": [*changed],
        **({"new_jobs": new, "refused": order.refused} if order.action is Action.RETRY else {}),
    }


def _routes(connection: Connection, rows: Sequence[_Row]) -> dict[str, str]:
    bound = {row.model_id for row in rows} - {None}
    query = select(models.c.id, models.c.digest).where(models.c.id.in_(bound))
    digests = {row.id: row.digest for row in connection.execute(query)} if bound else {}
    return {row.id: route(Queue(row.queue), digests.get(row.model_id)) for row in rows}
