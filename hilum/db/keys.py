"""API keys: only their sha256 is kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Connection, Row, func, insert, literal, select, update

from hilum.db.tables import UtcDateTime, api_keys
from hilum.ids import new_id


class Scope(StrEnum):
    """What a key may do."""

    STUDIES_WRITE = "studies:write"
    STUDIES_READ = "studies:read"


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None


def create(
    connection: Connection, *, tenant: str, name: str, scopes: Sequence[Scope]
) -> tuple[ApiKey, str]:
    """Make a key. The secret (``hk_…``, 256 random bits) is returned once and not kept.

    A plain sha256 is enough to store it: a random 256-bit secret cannot be guessed from a
    dictionary, which is what slow hashes are for.
    """
    secret = f"hk_{secrets.token_urlsafe(32)}"
    row = {
        "id": new_id("key"),
        "tenant": tenant,
        "name": name,
        "scopes": sorted(scopes),
        "created_at": datetime.now(UTC),
    }
    connection.execute(insert(api_keys).values(**row, key_sha256=_digest(secret)))
    key = find(connection, secret)
    assert key is not None
    return key, secret


def find(connection: Connection, secret: str) -> ApiKey | None:
    """The unrevoked key with this secret."""
    query = select(api_keys).where(
        api_keys.c.key_sha256 == _digest(secret), api_keys.c.revoked_at.is_(None)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _key(row)


def listing(connection: Connection) -> list[ApiKey]:
    """All keys, revoked ones too, oldest first."""
    return [_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.id))]


def revoke(connection: Connection, key_id: str) -> bool:
    """Revoke the key, with the date of the first time; false if there is no such key."""
    now = literal(datetime.now(UTC), UtcDateTime)
    change = (
        update(api_keys)
        .where(api_keys.c.id == key_id)
        .values(revoked_at=func.coalesce(api_keys.c.revoked_at, now))
    )
    return connection.execute(change).rowcount == 1


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    values = row._mapping
    return ApiKey(
        id=values["id"],
        tenant=values["tenant"],
        name=values["name"],
        scopes=frozenset(Scope(scope) for scope in values["scopes"]),
        created_at=values["created_at"],
        revoked_at=values["revoked_at"],
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
