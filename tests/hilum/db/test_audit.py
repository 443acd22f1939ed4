"""The audit: one chain, which shows every change made to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import delete, insert, select, text, update

from hilum.commands.audit import audit as command
from hilum.db import audit, migrate
from hilum.db.connection import Database
from hilum.db.tables import audit as table
from hilum.errors import AuditBrokenError, UnexpectedError


def _append(database: Database, n: int = 0, **fields: Any) -> int:
    values: dict[str, Any] = {
        "tenant": "north",
        "actor": "cli:root",
        "action": "job.cancelled",
        "object": f"jb_{n}",
        "detail": {"n": n, "share": 0.1, "nothing": None, "word": "Größe"},
    }
    with database.write() as connection:
        return audit.append(connection, **{**values, **fields})


def _verify(database: Database) -> audit.Head:
    with database.read() as connection:
        return audit.verify(connection)


def _by_hand(database: Database, *statements: Any) -> None:
    """Change the table as who owns the database can: without its triggers."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            connection.execute(text("DROP TRIGGER audit_no_update"))
            connection.execute(text("DROP TRIGGER audit_no_delete"))
        for statement in statements:
            connection.execute(statement)


def test_an_empty_chain(database: Database) -> None:
    assert _verify(database) == audit.Head(rows=0, hash=bytes(32))


def test_rows_continue_each_other(database: Database) -> None:
    assert [_append(database, n) for n in range(3)] == [1, 2, 3]
    assert _append(database, 4, tenant=None, detail={}) == 4
    head = _verify(database)
    with database.read() as connection:
        rows = connection.execute(select(table).order_by(table.c.id)).all()
    assert head == audit.Head(rows=4, hash=bytes(rows[-1].hash))
    assert [bytes(row.previous_hash) for row in rows[1:]] == [bytes(row.hash) for row in rows[:-1]]
    assert (rows[1].tenant, rows[1].actor, rows[1].object) == ("north", "cli:root", "jb_1")


def test_verifying_goes_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PAGE", 2)
    for n in range(4):
        _append(database, n)
    assert _verify(database).rows == 4
    _by_hand(database, update(table).where(table.c.id == 3).values(actor="cli:other"))
    with pytest.raises(AuditBrokenError, match="Row 3 "):
        _verify(database)


def test_writers_at_the_same_time_do_not_fork_the_chain(
    database: Database, race: Callable[..., list[object]]
) -> None:
    def write(n: int) -> list[int]:
        return [_append(database, n) for _ in range(5)]

    found = race(write)
    assert all(isinstance(one, list) for one in found), found
    assert _verify(database).rows == 30


def test_a_transaction_that_fails_leaves_no_gap(database: Database) -> None:
    _append(database)
    with suppress(RuntimeError), database.write() as connection:
        audit.append(connection, tenant=None, actor="a", action="b", object="c", detail={})
        raise RuntimeError
    assert _append(database) == 2
    assert _verify(database).rows == 2


@pytest.mark.parametrize(
    "change", [update(table).values(actor="cli:other"), delete(table)], ids=["update", "delete"]
)
def test_a_row_cannot_be_changed(database: Database, change: Any) -> None:
    _append(database)
    with pytest.raises(UnexpectedError), database.write() as connection:
        connection.execute(change)
    assert _verify(database).rows == 1


def test_the_table_cannot_be_emptied(database: Database) -> None:
    _append(database)
    how = "TRUNCATE audit" if database.dialect == "postgresql" else "DELETE FROM audit"
    with pytest.raises(UnexpectedError), database.write() as connection:
        connection.execute(text(how))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tenant", "south"),
        ("actor", "cli:other"),
        ("action", "job.retried"),
        ("object", "jb_9"),
        ("detail", {"n": 2}),
        ("at", text("'2020-01-01 00:00:00'")),
        ("hash", bytes(32)),
    ],
)
def test_a_changed_row_is_named(database: Database, column: str, value: object) -> None:
    for n in range(3):
        _append(database, n)
    _by_hand(database, update(table).where(table.c.id == 2).values({column: value}))
    with pytest.raises(AuditBrokenError, match="Row 2 of the audit was changed"):
        _verify(database)


def test_a_removed_row_is_named(database: Database) -> None:
    for n in range(3):
        _append(database, n)
    _by_hand(database, delete(table).where(table.c.id == 2))
    with pytest.raises(AuditBrokenError, match="Row 2 of the audit is missing"):
        _verify(database)


def test_a_row_put_in_again_is_named(database: Database) -> None:
    """With a hash that fits its new content: the row after it tells."""
    for n in range(3):
        _append(database, n)
    with database.read() as connection:
        row = dict(connection.execute(select(table).where(table.c.id == 2)).one()._mapping)
    forged = {**row, "object": "jb_9"}
    forged["hash"] = audit._hash(forged)
    _by_hand(database, delete(table).where(table.c.id == 2), insert(table).values(**forged))
    with pytest.raises(AuditBrokenError, match="Row 3 of the audit does not continue"):
        _verify(database)


def test_a_detail_must_be_json(database: Database) -> None:
    for detail in ({"n": float("nan")}, {"n": object()}):
        with pytest.raises(ValueError, match="JSON"):
            _append(database, detail=detail)


def test_the_command(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(database_url)
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    with Database(database_url) as database:
        _append(database)
        head = _verify(database)
        found = CliRunner().invoke(command, ["verify"])
        assert (found.exit_code, found.output) == (0, f"1 rows, last hash {head.hash.hex()}\n")
        _by_hand(database, update(table).values(actor="cli:other"))
        broken = CliRunner().invoke(command, ["verify"])
    assert isinstance(broken.exception, AuditBrokenError)
    assert "Row 1 " in broken.exception.detail
