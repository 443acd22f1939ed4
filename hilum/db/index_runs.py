"""Enter instances of which only the header was read, and remember how far a run has come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, exists, literal, select, update

from hilum.db import instances
from hilum.db.connection import insert_or_ignore
from hilum.db.instances import NewInstance
from hilum.db.tables import campaign_items, index_runs
from hilum.db.tables import instances as table


@dataclass(frozen=True, kw_only=True)
class IndexRun:
    """A run over one source, such as a folder."""

    id: int
    tenant: str
    cursor: str | None  # None: it begins
    counts: dict[str, int]


def begin(connection: Connection, *, tenant: str, source: str, anew: bool) -> IndexRun:
    """The run over this source: the one that was broken off, or else a new one."""
    digest = hashlib.sha256(source.encode()).digest()
    now = datetime.now(UTC)
    fresh: dict[str, Any] = {"cursor": None, "counts": {}, "started_at": now, "updated_at": now}
    key = {"tenant": tenant, "source_sha256": digest}
    new = insert_or_ignore(connection, index_runs).values(**key, **fresh, source=source)
    connection.execute(new)
    own = (index_runs.c.tenant == tenant, index_runs.c.source_sha256 == digest)
    row = connection.execute(select(index_runs).where(*own).with_for_update()).one()
    if anew or row.finished_at is not None:
        connection.execute(update(index_runs).where(*own).values(**fresh, finished_at=None))
        return IndexRun(id=row.id, tenant=tenant, cursor=None, counts={})
    return IndexRun(id=row.id, tenant=tenant, cursor=row.cursor, counts=row.counts)


def enter(connection: Connection, run: IndexRun, seen: Sequence[NewInstance]) -> int:
    """Enter these headers, except those whose whole object is known. Returns how many are left
    out. An earlier header of the same address is replaced."""
    known = {
        (row.sop_instance_uid, row.uri, row.etag)
        for row in connection.execute(
            select(table.c.sop_instance_uid, table.c.uri, table.c.etag).where(
                table.c.tenant == run.tenant,
                table.c.sop_instance_uid.in_([one.sop_instance_uid for one in seen]),
                table.c.header_only.is_(None),
            )
        )
    }
    fresh = [one for one in seen if (one.sop_instance_uid, one.uri, one.etag) not in known]
    used = exists(select(literal(1)).where(campaign_items.c.instance_id == table.c.id))
    for one in fresh:
        connection.execute(
            delete(table).where(
                table.c.tenant == run.tenant,
                table.c.sop_instance_uid == one.sop_instance_uid,
                table.c.uri == one.uri,
                table.c.etag != one.etag,
                table.c.header_only.is_(True),
                ~used,
            )
        )
    instances.record(connection, tenant=run.tenant, seen=fresh)
    return len(seen) - len(fresh)


def note(
    connection: Connection, run: IndexRun, *, cursor: str | None, counts: dict[str, int]
) -> None:
    """Note how far the run has come; ``None``: it has ended."""
    now = datetime.now(UTC)
    values = {"counts": counts, "updated_at": now}
    values |= {"finished_at": now} if cursor is None else {"cursor": cursor}
    connection.execute(update(index_runs).where(index_runs.c.id == run.id).values(**values))
