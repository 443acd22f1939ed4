"""Which jobs a worker claims next: the most urgent first, and among tenants the one with least in
hand for its weight.

Nothing here reads a whole backlog: tenants with queued jobs are found by one step in the index for
each of them, and their jobs by age.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    TextClause,
    bindparam,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import registry

from hilum.db.leases import choose_unlocked
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import UtcDateTime, items, jobs, tenants
from hilum.queue import Queue

_TENANTS: Final = 4  # whose jobs are taken in one claim
# Literals, because a partial index is used only where its condition is certain.
_QUEUED: Final[ColumnElement[str]] = literal_column("'queued'")


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much a worker can take of one priority."""

    queue: Queue
    images: int
    jobs: int


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The queued jobs of one tenant and priority: those bound to the model, or to none."""

    queue: Queue
    tenant: str
    bound: bool
    since: Any = field(compare=False)  # when its oldest job became due, as the database has it


def find_due(
    connection: Connection, queues: Sequence[Queue], *, model_id: int | None
) -> dict[Queue, list[_Line]]:
    """The lines that have a job which is due, by priority. A cheap query: workers poll with it."""
    found: dict[Queue, list[_Line]] = defaultdict(list)
    query = _due_lines(connection.dialect.name, tuple(queues), model_id)
    for row in connection.execute(query, {"now": datetime.now(UTC)}):
        queue = Queue(row.queue)
        found[queue].append(
            _Line(queue=queue, tenant=row.tenant, bound=bool(row.bound), since=row.oldest)
        )
    return found


@lru_cache(maxsize=64)
def _due_lines(dialect: str, queues: tuple[Queue, ...], model_id: int | None) -> TextClause:
    """The query of :func:`find_due` as text: to put it together again costs more than to run it."""
    parts = [_lines(queue, model_id=None) for queue in queues]
    if model_id is not None:
        parts += [_lines(queue, model_id=model_id) for queue in queues]
    lines = union_all(*parts).compile(
        dialect=registry.load(dialect)(), compile_kwargs={"literal_binds": True}
    )
    return text(f"SELECT * FROM ({lines}) AS found WHERE oldest <= :now").bindparams(  # noqa: S608
        bindparam("now", type_=UtcDateTime)
    )


def choose(
    connection: Connection,
    rooms: Sequence[Room],
    *,
    model_id: int | None,
    max_running_jobs: int | None,
) -> list[str]:
    """The ids of the jobs to claim, which this transaction has locked (PostgreSQL).

    Args:
        rooms: from the most to the least urgent priority.
        model_id: of the model that the worker serves.
        max_running_jobs: of a tenant without a limit of its own; ``None``: no limit.
    """
    due = find_due(connection, [room.queue for room in rooms], model_id=model_id)
    if not due:
        return []
    load = _Load.read(connection, max_running_jobs)
    chosen: list[str] = []
    for room in rooms:
        chosen += _fill(connection, room, due.get(room.queue, []), load, model_id)
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Load:
    """What tenants have in hand of all workers, and what they may have."""

    running: Counter[tuple[Queue, str]]
    weights: Mapping[str, float]
    limits: Mapping[str, int]
    default: int | None

    @classmethod
    def read(cls, connection: Connection, default: int | None) -> _Load:
        counts = (
            select(jobs.c.queue, jobs.c.tenant, func.count().label("jobs"))
            .where(jobs.c.status == JobStatus.RUNNING)
            .group_by(jobs.c.queue, jobs.c.tenant)
        )
        rows = connection.execute(select(tenants)).all()
        return cls(
            running=Counter(
                {(Queue(row.queue), row.tenant): row.jobs for row in connection.execute(counts)}
            ),
            weights={row.tenant: row.weight for row in rows if row.weight > 0},
            limits={
                row.tenant: row.max_running_jobs for row in rows if row.max_running_jobs is not None
            },
            default=default,
        )

    def share(self, queue: Queue, tenant: str) -> float:
        return self.running[queue, tenant] / self.weights.get(tenant, 1.0)

    def may_take(self, tenant: str) -> bool:
        limit = self.limits.get(tenant, self.default)
        return limit is None or limit > sum(self.running[queue, tenant] for queue in Queue)


def _fill(
    connection: Connection, room: Room, lines: Sequence[_Line], load: _Load, model_id: int | None
) -> list[str]:
    """Jobs for ``room``, one after the other from the tenant that has least. A job is taken whole,
    so that the last one may have more images than there is room for."""
    able = [line for line in lines if load.may_take(line.tenant)]
    ordered = sorted(able, key=lambda line: (load.share(room.queue, line.tenant), line.since))
    # A query for each tenant; the others come next, when these have more in hand.
    ordered = ordered[: min(room.jobs, _TENANTS)]
    waiting = {line: _oldest(connection, line, room, model_id) for line in ordered}
    images, chosen = room.images, list[str]()
    while images > 0 and len(chosen) < room.jobs:
        left = [line for line in ordered if waiting[line] and load.may_take(line.tenant)]
        if not left:
            break
        line = min(left, key=lambda each: load.share(room.queue, each.tenant))
        job_id, size = waiting[line].pop(0)
        load.running[room.queue, line.tenant] += 1
        chosen.append(job_id)
        images -= max(1, size)
    return chosen


def _oldest(
    connection: Connection, line: _Line, room: Room, model_id: int | None
) -> list[tuple[str, int]]:
    """The jobs of a line that have been due for longest, with the number of their images, which is
    not counted beyond the room."""
    due = _due(jobs, bound=line.bound)
    chosen = choose_unlocked(
        jobs,
        *_in_line(jobs, line.queue, model_id if line.bound else None),
        jobs.c.tenant == line.tenant,
        due <= datetime.now(UTC),
        order_by=(due,),
        limit=min(room.images, room.jobs),
    )
    pending = (
        select(items.c.image_id)
        .where(items.c.job_id == jobs.c.id, items.c.status == ItemStatus.PENDING)
        .limit(room.images)
        .correlate(jobs)
        .subquery()
    )
    size = select(func.count()).select_from(pending).scalar_subquery()
    query = select(jobs.c.id, size).where(jobs.c.id.in_(select(chosen.c.id))).order_by(due)
    return [(row[0], int(row[1])) for row in connection.execute(query)]


def _lines(queue: Queue, *, model_id: int | None) -> Select[Any]:
    """Each tenant with queued jobs, and since when the oldest of them has been due."""
    bound = model_id is not None
    other = jobs.alias()
    first = select(func.min(jobs.c.tenant).label("tenant")).where(*_in_line(jobs, queue, model_id))
    walk = first.cte(recursive=True)
    after = select(func.min(other.c.tenant)).where(
        *_in_line(other, queue, model_id), other.c.tenant > walk.c.tenant
    )
    walk = walk.union_all(
        select(after.correlate(walk).scalar_subquery()).where(walk.c.tenant.is_not(None))
    )
    oldest = select(func.min(_due(jobs, bound=bound))).where(
        *_in_line(jobs, queue, model_id), jobs.c.tenant == walk.c.tenant
    )
    return select(
        literal_column(f"'{queue.value}'").label("queue"),
        literal_column("1" if bound else "0").label("bound"),
        walk.c.tenant,
        oldest.correlate(walk).scalar_subquery().label("oldest"),
    ).where(walk.c.tenant.is_not(None))


def _in_line(table: Any, queue: Queue, model_id: int | None) -> tuple[ColumnElement[bool], ...]:
    bound = table.c.model_id.is_(None) if model_id is None else table.c.model_id == model_id
    if model_id is None:
        return (table.c.status == _QUEUED, table.c.queue == queue, bound)
    return (
        table.c.status == _QUEUED,
        table.c.queue == queue,
        table.c.model_id.is_not(None),
        bound,
    )


def _due(table: Any, *, bound: bool) -> ColumnElement[datetime]:
    due: ColumnElement[datetime] = table.c.bound_available_at if bound else table.c.available_at
    return due
