"""The audit: who did what to which object, in one chain of rows that only grows.

The hash of each row covers its content and the hash of the row before it. A row that is changed,
removed or inserted later breaks the chain. Triggers refuse UPDATE and DELETE. No row names a
patient: objects are named by their opaque ids (``jb_…``, ``key_…``).

All tenants share one chain, so that the whole history of a tenant cannot be removed unnoticed.
Audited actions are rare enough for their writers to wait for each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, text

from hilum.db.tables import audit
from hilum.errors import AuditBrokenError

_NO_HASH: Final = bytes(32)  # the previous hash of the first row
_LOCK: Final = 0x6175646974  # any constant; ASCII "audit"
_PAGE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of the chain. Keep a copy of it elsewhere to notice rows missing from the end."""

    rows: int
    hash: bytes  # 32 bytes; zeros if there is no row


def append(
    connection: Connection,
    *,
    tenant: str | None,
    actor: str,
    action: str,
    object: str,
    detail: Mapping[str, Any],
) -> int:
    """Add a row, in the transaction of the action itself. Make this the last statement of the
    transaction: other writers of the audit wait until it ends.

    Args:
        tenant: the owner of the object; ``None``: the whole installation.
        actor: the id of an API key (``key_…``), or ``cli:`` and the user of the machine.
        object: the opaque id of the object.
        detail: JSON without patient data and secrets.

    Returns:
        The number of the row.

    Raises:
        ValueError: ``detail`` is not JSON.
    """
    if connection.dialect.name == "postgresql":
        # SQLite has one writer only. The next statement sees the row of the previous lock holder.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = connection.execute(
        select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1)
    ).one_or_none()
    row = {
        "id": 1 if last is None else last.id + 1,
        "at": datetime.now(UTC),
        "tenant": tenant,
        "actor": actor,
        "action": action,
        "object": object,
        "detail": json.loads(_canonical(dict(detail))),
        "previous_hash": _NO_HASH if last is None else bytes(last.hash),
    }
    connection.execute(insert(audit).values(**row, hash=_hash(row)))
    return int(row["id"])


def verify(connection: Connection) -> Head:
    """Check the whole chain, in constant memory.

    Raises:
        AuditBrokenError: a row is wrong; the detail names the first.
    """
    previous = Head(rows=0, hash=_NO_HASH)
    while True:
        query = select(audit).where(audit.c.id > previous.rows).order_by(audit.c.id).limit(_PAGE)
        rows = connection.execute(query).all()
        for row in rows:
            previous = _check(row, previous)
        if len(rows) < _PAGE:
            return previous


def _check(row: Row[Any], previous: Head) -> Head:
    number = previous.rows + 1
    if row.id != number:
        raise AuditBrokenError(f"Row {number} of the audit is missing; row {row.id} follows.")
    if bytes(row.previous_hash) != previous.hash:
        raise AuditBrokenError(f"Row {number} of the audit does not continue the row before it.")
    if bytes(row.hash) != _hash(row._asdict()):
        raise AuditBrokenError(f"Row {number} of the audit was changed after it was written.")
    return Head(rows=number, hash=bytes(row.hash))


def _hash(row: Mapping[str, Any]) -> bytes:
    """SHA-256 of the row's content as canonical JSON, with its time in UTC and microseconds."""
    names = ("id", "tenant", "actor", "action", "object", "detail")
    at = row["at"].isoformat(timespec="microseconds")
    before = bytes(row["previous_hash"]).hex()
    content = [*(row[name] for name in names), at, before]
    return hashlib.sha256(_canonical(content).encode()).digest()


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError("The detail of an audit row must be JSON.") from error
