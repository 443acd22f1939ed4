"""Carry out an order: on one job, with an error if it does not apply, or on all that a filter
chooses, step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from hilum.db.connection import Database
from hilum.db.operating.filters import JobFilter
from hilum.db.operating.listing import count, get
from hilum.db.operating.steps import Action, Changed, Order, Step, take_step
from hilum.db.patience import persist
from hilum.db.states import JobStatus
from hilum.errors import JobStateError, JobUnknownError, NothingToRetryError

STEP_SIZE: Final = 100  # jobs in one transaction


def count_chosen(database: Database, order: Order) -> int:
    """The number of jobs that the order would change now."""
    with database.read() as connection:
        return count(connection, *order.conditions)


def run(
    database: Database,
    order: Order,
    *,
    after: str = "",
    step_size: int = STEP_SIZE,
    patience_s: float = 60.0,
) -> Iterator[Step]:
    """Carry out the order on all jobs that it chooses and that exist when it begins. Jobs that are
    created meanwhile are left out, or the work might never end.

    Yields:
        Each step that has been committed. To stop, stop reading; to resume, give the order again,
        or pass ``Step.last`` as ``after``.

    Raises:
        DatabaseUnavailableError: a step found a deadlock, or the database unavailable, for longer
            than ``patience_s``.
    """
    if order.which.until is None:
        soon = datetime.now(UTC) + timedelta(seconds=1)  # clocks of machines differ a little
        order = replace(order, which=replace(order.which, until=soon))
    never, cursor = threading.Event(), after

    def take(connection: Connection) -> Step:
        return take_step(connection, order, after=cursor, limit=step_size)

    while True:
        step = persist(database, take, patience_s=patience_s, stop=never)
        yield step
        if step.last is None:
            return
        cursor = step.last


def act(database: Database, order: Order, job_id: str, *, tenant: str | None = None) -> Changed:
    """Carry out the order on one job. To cancel a job that is cancelled changes nothing.

    Args:
        database: the SQL database.
        order: its filter's ``code`` counts for a retry; of the rest nothing does.
        job_id: the job.
        tenant: the owner that the job must have; ``None``: any.

    Raises:
        JobUnknownError: there is no such job, or it belongs to another tenant.
        JobStateError: the job has ended, or has not, or a campaign owns it.
        NothingToRetryError: a retry finds no image that may be tried again.
    """
    code = order.which.code if order.action is Action.RETRY else None
    order = replace(order, which=JobFilter(ids=(job_id,), tenant=tenant, code=code))
    with database.write() as connection:
        step = take_step(connection, order, limit=1)
        if step.changed:
            return step.changed[0]
        found = get(connection, job_id, tenant=tenant)
    if found is None:
        raise JobUnknownError("The tenant has no such job.")
    job = found.job
    if order.action is Action.CANCEL and job.cancelled:
        return Changed(id=job_id, publish=None, route=job.queue)
    if order.action is Action.RETRY and job.campaign_id is not None:
        raise JobStateError(
            "The job belongs to a campaign.",
            next_step="Create a campaign that scores what failed; a campaign has its own jobs.",
        )
    ended = job.status in (JobStatus.COMPLETED, JobStatus.FAILED)
    if order.action is Action.RETRY and ended:
        raise NothingToRetryError(
            "Each image of the job is scored, was refused for its content, or is in a later job."
        )
    allowed = {Action.RETRY: "ended", Action.REQUEUE: "queued", Action.CANCEL: "queued or running"}
    raise JobStateError(
        f"The job is {job.status.value}; {order.action} needs one that is {allowed[order.action]}."
    )
