"""API keys. Only the sha256 of a key is stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, Row, insert, select, update

from hilum.db import audit
from hilum.db.tables import api_keys
from hilum.errors import ConfigurationError, UnknownScopeError
from hilum.ids import new_id


class Scope(StrEnum):
    """What a key may do."""

    SUBMIT = "submit"  # register studies
    STAT = "stat"  # register them as urgent
    READ = "read"  # see studies and their results
    FEEDBACK = "feedback"  # say what a reader thinks of a finding
    ADMIN = "admin"  # campaigns, the model in force, and many jobs at once


# The names of the release before; its rows and users' scripts have them.
_OLD_NAMES: Final[dict[str, frozenset[Scope]]] = {
    "studies:write": frozenset({Scope.SUBMIT, Scope.STAT}),
    "studies:read": frozenset({Scope.READ}),
}
SCOPE_NAMES: Final = (*Scope, *_OLD_NAMES)
# Of a key for which none are named: what a client of the gateway needs.
CLIENT_SCOPES: Final = (Scope.SUBMIT, Scope.STAT, Scope.READ, Scope.FEEDBACK)


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
    connection: Connection,
    *,
    tenant: str,
    name: str,
    scopes: Iterable[str],
    actor: str = "system",
) -> tuple[ApiKey, str]:
    """Create a key and record it in the audit. The secret (``hk_…``, 256 random bits) is returned
    once and not stored.

    A plain sha256 is sufficient: slow hashes protect secrets that a dictionary contains, and a
    random 256-bit secret is in none.

    Args:
        tenant: the owner of the studies that the key may see.
        name: by which people recognise the key.
        scopes: some of :data:`SCOPE_NAMES`, which include the old names.
        actor: see :func:`hilum.db.audit.append`.

    Raises:
        ConfigurationError: the tenant or the name is empty, too long or not printable.
        UnknownScopeError: a scope does not exist.
    """
    for what, text, longest in (("tenant", tenant, 64), ("name", name, 100)):
        if not text.isprintable() or not 1 <= len(text) <= longest:
            raise ConfigurationError(
                f"The {what} of a key must have 1 to {longest} printable characters.",
                next_step=f"Choose another {what}.",
            )
    scopes = list(scopes)
    unknown = sorted(set(scopes) - {*SCOPE_NAMES})
    if unknown:
        known = ", ".join(SCOPE_NAMES)
        raise UnknownScopeError(f"Unknown scope {', '.join(unknown)}; the scopes are {known}.")
    granted = _known(scopes)
    secret = f"hk_{secrets.token_urlsafe(32)}"
    row = {
        "id": new_id("key"),
        "tenant": tenant,
        "name": name,
        "scopes": [old for old, new in _OLD_NAMES.items() if new <= granted],
        "granted": sorted(granted),
        "created_at": datetime.now(UTC),
    }
    connection.execute(insert(api_keys).values(**row, key_sha256=_digest(secret)))
    key = find(connection, secret)
    assert key is not None
    audit.append(
        connection,
        tenant=tenant,
        actor=actor,
        action="key.created",
        object=key.id,
        detail={"scopes": row["granted"]},
    )
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


def revoke(connection: Connection, key_id: str, *, actor: str = "system") -> bool:
    """Revoke the key and record it in the audit; a key that is revoked already keeps its date.
    Returns false if no such key exists."""
    key = api_keys.c.id == key_id
    change = (
        update(api_keys)
        .where(key, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
        .returning(api_keys.c.tenant)
    )
    revoked = connection.execute(change).one_or_none()
    if revoked is None:
        return connection.execute(select(api_keys.c.id).where(key)).one_or_none() is not None
    audit.append(
        connection,
        tenant=revoked.tenant,
        actor=actor,
        action="key.revoked",
        object=key_id,
        detail={},
    )
    return True


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    values = row._mapping
    granted = values["scopes"] if values["granted"] is None else values["granted"]
    return ApiKey(
        id=values["id"],
        tenant=values["tenant"],
        name=values["name"],
        scopes=_known(granted),
        created_at=values["created_at"],
        revoked_at=values["revoked_at"],
    )


def _known(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names. Unknown names, which a later release may have written, are
    ignored."""
    new = {name: frozenset({Scope(name)}) for name in Scope}
    nothing: frozenset[Scope] = frozenset()
    return nothing.union(*((_OLD_NAMES | new).get(name, nothing) for name in names))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
