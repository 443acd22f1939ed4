"""API keys: found by their secret, which is not kept."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from hilum.db import audit, keys
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.db.tables import api_keys
from hilum.db.tables import audit as audit_table
from hilum.errors import ConfigurationError, UnknownScopeError

ALL_OF_OLD = {Scope.SUBMIT, Scope.STAT, Scope.READ}
OLD = {"studies:write", "studies:read"}  # all that the release before can read


def test_life_of_a_key(database: Database) -> None:
    with database.write() as connection:
        key, secret = keys.create(connection, tenant="north", name="pacs", scopes=[Scope.SUBMIT])
        other, _ = keys.create(connection, tenant="south", name="pacs", scopes=[])
    assert (key.tenant, key.name, key.scopes) == ("north", "pacs", {Scope.SUBMIT})
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


@pytest.mark.parametrize(
    ("names", "scopes", "old"),
    [
        (["studies:write"], {Scope.SUBMIT, Scope.STAT}, ["studies:write"]),
        (["studies:read"], {Scope.READ}, ["studies:read"]),
        (["studies:write", "read"], ALL_OF_OLD, ["studies:write", "studies:read"]),
        (["submit", "stat", "read"], ALL_OF_OLD, ["studies:write", "studies:read"]),
        # The release before has no such distinction: there the key may do less, never more.
        (["submit", "read"], {Scope.SUBMIT, Scope.READ}, ["studies:read"]),
        (
            ["admin", "feedback", "read"],
            {Scope.ADMIN, Scope.FEEDBACK, Scope.READ},
            ["studies:read"],
        ),
        ([], set(), []),
    ],
)
def test_old_names_of_scopes(
    database: Database, names: list[str], scopes: set[Scope], old: list[str]
) -> None:
    with database.write() as connection:
        key, _ = keys.create(connection, tenant="north", name="pacs", scopes=names)
        stored = connection.execute(select(api_keys.c.scopes)).scalar_one()
    assert key.scopes == scopes
    assert stored == old
    assert set(stored) <= OLD


def test_a_key_of_the_release_before(database: Database) -> None:
    with database.write() as connection:
        _, secret = keys.create(connection, tenant="north", name="pacs", scopes=["submit"])
        was = {"scopes": ["studies:write"], "granted": None}
        connection.execute(update(api_keys).values(**was))
        key = keys.find(connection, secret)
    assert key is not None
    assert key.scopes == {Scope.SUBMIT, Scope.STAT}


def test_a_scope_of_a_later_release_is_ignored(database: Database) -> None:
    with database.write() as connection:
        _, secret = keys.create(connection, tenant="north", name="pacs", scopes=["read"])
        connection.execute(update(api_keys).values(granted=["read", "jobs:cancel"]))
        key = keys.find(connection, secret)
    assert key is not None
    assert key.scopes == {Scope.READ}


def test_an_unknown_scope_makes_no_key(database: Database) -> None:
    with pytest.raises(UnknownScopeError) as caught, database.write() as connection:
        keys.create(connection, tenant="north", name="pacs", scopes=["read", "write"])
    assert caught.value.detail == (
        "Unknown scope write; the scopes are submit, stat, read, feedback, admin, "
        "studies:write, studies:read."
    )
    with database.read() as connection:
        assert keys.listing(connection) == []


def test_making_and_revoking_are_audited(database: Database) -> None:
    with database.write() as connection:
        key, secret = keys.create(
            connection, tenant="north", name="pacs", scopes=["read"], actor="cli:root"
        )
    with database.write() as connection:
        assert keys.revoke(connection, key.id, actor="cli:root")
    with database.write() as connection:
        assert keys.revoke(connection, key.id)  # nothing is done, so nothing is noted
        rows = connection.execute(select(audit_table).order_by(audit_table.c.id)).all()
        assert audit.verify(connection).rows == 2
    assert [(row.tenant, row.actor, row.action, row.object, row.detail) for row in rows] == [
        ("north", "cli:root", "key.created", key.id, {"scopes": ["read"]}),
        ("north", "cli:root", "key.revoked", key.id, {}),
    ]
    assert secret not in repr(rows)


@pytest.mark.parametrize("wrong", ["", "n" * 101, "north\0", "north\n"])
def test_names_that_postgresql_could_not_store(database: Database, wrong: str) -> None:
    """SQLite stores any text, PostgreSQL none with a NUL or beyond its length."""
    fields = {"tenant": "north", "name": "pacs"}
    for field in fields:
        with (
            database.write() as connection,
            pytest.raises(ConfigurationError, match=f"The {field} of a key must have 1 to"),
        ):
            keys.create(connection, **{**fields, field: wrong}, scopes=["read"])
