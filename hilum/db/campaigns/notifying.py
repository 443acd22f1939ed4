"""Tell destinations of the studies whose results a promotion changes, if that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, exists, insert, literal, select, update

from hilum.db import serving
from hilum.db.connection import insert_or_ignore
from hilum.db.display import FIRST_JOB
from hilum.db.states import ItemStatus
from hilum.db.tables import deliveries, items, jobs, outbox, promotions, results, studies
from hilum.ids import new_id

_PAGE: Final = 500  # studies that one call of `notify_some` looks at


def due(connection: Connection) -> list[tuple[str, int]]:
    """The promotions whose deliveries have not all been created."""
    p = promotions.c
    query = select(p.tenant, p.number).where(p.notified_at.is_(None))
    return [(row.tenant, row.number) for row in connection.execute(query)]


def notify_some(connection: Connection, tenant: str, number: int) -> int:
    """Create the deliveries of the promotion's next studies, due one after the other at its rate.
    Returns how many there are."""
    p = promotions.c
    own = (p.tenant == tenant, p.number == number, p.notified_at.is_(None))
    row = connection.execute(
        select(promotions).where(*own).with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return 0
    wish = dict(row.notify)
    page, last = _studies(connection, tenant, wish.get("after", ""))
    made = 0
    for job_id in page:
        due_at = _next_due(wish)
        event = (
            insert_or_ignore(connection, outbox)
            .values(
                tenant=tenant, kind=f"study.rescored.{number}", job_id=job_id, created_at=row.at
            )
            .returning(outbox.c.id)
        )
        event_id = connection.execute(event).scalar_one_or_none()
        if event_id is None:
            continue
        connection.execute(
            insert(deliveries),
            [
                {
                    "id": new_id("dl"),
                    "tenant": tenant,
                    "event_id": event_id,
                    "job_id": job_id,
                    "destination": destination,
                    "attempts": 0,
                    "due_at": due_at,
                    "created_at": datetime.now(UTC),
                }
                for destination in wish["destinations"]
            ],
        )
        made += 1
        wish["due"] = due_at.isoformat()
    values: dict[str, Any] = {"notify": wish | {"after": last}}
    if last is None:
        values["notified_at"] = datetime.now(UTC)
    connection.execute(
        update(promotions).where(p.tenant == tenant, p.number == number).values(values)
    )
    return made


def _next_due(wish: dict[str, Any]) -> datetime:
    """Staggered: each study is due one share of a minute after the one before."""
    now = datetime.now(UTC)
    if "due" not in wish:
        return now
    after = datetime.fromisoformat(wish["due"]) + timedelta(minutes=1 / wish["per_minute"])
    return max(now, after)


def _studies(connection: Connection, tenant: str, after: str) -> tuple[Sequence[str], str | None]:
    """The live jobs of the next studies that show a result of the model in force, and the last
    study that was looked at; ``None``: there are no more."""
    page = connection.execute(
        select(studies.c.id)
        .where(studies.c.tenant == tenant, studies.c.id > after)
        .order_by(studies.c.id)
        .limit(_PAGE)
    ).scalars()
    ids = [*page]
    row = serving.get(connection, tenant)
    if not ids or row is None:
        return (), None
    found: list[str] = []
    old, new = results.alias("old"), results.alias("new")
    for study_id in ids:
        model_id = row.shown(study_id)
        job = (
            select(jobs.c.id)
            .where(jobs.c.study_id == study_id, jobs.c.campaign_id.is_(None))
            .order_by(*FIRST_JOB)
            .limit(1)
        )
        job_id = connection.execute(job).scalar()
        if job_id is None:
            continue
        same = (
            select(literal(1))
            .select_from(items.join(old, old.c.id == items.c.result_id))
            .join(
                new,
                (new.c.tenant == old.c.tenant)
                & (new.c.sop_instance_uid == old.c.sop_instance_uid)
                & (new.c.content_sha256 == old.c.content_sha256),
            )
            .where(
                items.c.job_id == job_id,
                items.c.status == ItemStatus.SCORED,
                new.c.model_id == model_id,
                new.c.id != old.c.id,
            )
        )
        if connection.execute(select(exists(same))).scalar():
            found.append(job_id)
    return found, ids[-1] if len(ids) == _PAGE else None
