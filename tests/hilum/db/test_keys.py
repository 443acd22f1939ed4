"""API keys: found by their secret, which is not kept."""

from __future__ import annotations

from sqlalchemy import select

from hilum.db import keys
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.db.tables import api_keys


def test_life_of_a_key(database: Database) -> None:
    with database.write() as connection:
        key, secret = keys.create(
            connection, tenant="north", name="pacs", scopes=[Scope.STUDIES_WRITE]
        )
        other, _ = keys.create(connection, tenant="south", name="pacs", scopes=[])
    assert (key.tenant, key.name, key.scopes) == ("north", "pacs", {Scope.STUDIES_WRITE})
    with database.read() as connection:
        assert keys.find(connection, secret) == key
        assert keys.find(connection, secret[:-1]) is None
        assert keys.find(connection, "") is None
        assert keys.listing(connection) == [key, other]
    with database.write() as connection:
        assert keys.revoke(connection, key.id)
        assert not keys.revoke(connection, "key_none")
        assert keys.find(connection, secret) is None
        revoked, _ = keys.listing(connection)
    assert revoked.revoked_at is not None


def test_a_key_is_revoked_once(database: Database) -> None:
    """The date of the first time stays."""
    with database.write() as connection:
        key, _ = keys.create(connection, tenant="north", name="pacs", scopes=[])
        assert keys.revoke(connection, key.id)
        (first,) = keys.listing(connection)
        assert keys.revoke(connection, key.id)
        assert keys.listing(connection) == [first]


def test_the_secret_is_not_kept(database: Database) -> None:
    with database.write() as connection:
        key, secret = keys.create(connection, tenant="north", name="pacs", scopes=[])
        row = connection.execute(select(api_keys)).one()
    assert secret not in repr(row)
    assert secret not in repr(key)
    assert secret.startswith("hk_")
