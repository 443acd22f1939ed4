"""The migrated schema is the one the queries are written for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import insert, inspect, select, text

from hilum.commands.db import db
from hilum.db import migrate, version
from hilum.db.connection import Database
from hilum.db.tables import api_keys, metadata
from hilum.errors import DatabaseUnavailableError, SchemaOutdatedError

# Where databases keep their revision: ours, and that of the releases before.
RECORDS = {"hilum_schema", "alembic_version"}


def _differences(database: Database) -> list[object]:
    with database.read() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in RECORDS,
        }
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))


def test_migrated_schema_is_the_metadata(database: Database) -> None:
    assert _differences(database) == []


def test_every_constraint_has_the_name_of_the_convention(database: Database) -> None:
    """``compare_metadata`` does not look at primary and foreign keys' names."""
    with database.read() as connection:
        inspector = inspect(connection)
        for table in metadata.sorted_tables:
            found = {inspector.get_pk_constraint(table.name)["name"]}
            found |= {key["name"] for key in inspector.get_foreign_keys(table.name)}
            found |= {key["name"] for key in inspector.get_unique_constraints(table.name)}
            found |= {index["name"] for index in inspector.get_indexes(table.name)}
            expected = {str(constraint.name) for constraint in table.constraints}
            expected |= {str(index.name) for index in table.indexes}
            # PostgreSQL lists the index under each unique constraint too.
            assert found == expected, table.name


def test_up_down_up(database_url: str) -> None:
    assert migrate.upgrade(database_url) == version.head()
    assert migrate.downgrade(database_url, "base") == ""
    with Database(database_url) as database:
        with database.read() as connection:
            assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        with pytest.raises(SchemaOutdatedError, match="hilum db upgrade"):
            version.check(database)
        migrate.upgrade(database_url)
        version.check(database)
        assert _differences(database) == []


def test_indexes_of_claims_are_built_before_the_transaction(database_url: str) -> None:
    migrate.upgrade(database_url, "0004")
    migrate.upgrade(database_url)
    with Database(database_url) as database:
        assert _differences(database) == []


def test_a_second_upgrade_changes_nothing(database_url: str) -> None:
    migrate.upgrade(database_url)
    row = {"id": "key_1", "tenant": "north", "name": "n", "key_sha256": b"0" * 32, "scopes": []}
    with Database(database_url) as database:
        with database.write() as connection:
            now = text("CURRENT_TIMESTAMP")
            connection.execute(insert(api_keys).values(**row, created_at=now))
        migrate.upgrade(database_url)
        with database.read() as connection:
            assert connection.execute(select(api_keys.c.id)).scalars().all() == ["key_1"]


@pytest.mark.parametrize("start", [None, "0002"])
def test_processes_that_upgrade_together(database_url: str, start: str | None) -> None:
    """On a database that has nothing yet, not even its file, and on the release before's."""
    if start is not None:
        migrate.upgrade(database_url, start)
    code = "import sys; from hilum.db import migrate; print(migrate.upgrade(sys.argv[1]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, database_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    for (out, errors), code_ in results:
        assert (out.strip(), code_) == (version.head(), 0), errors


@pytest.mark.parametrize("table", ["jobs", "results"])  # what is prepared comes first: results
def test_a_migration_does_not_queue_behind_a_long_transaction(
    table: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after it would wait too, so that a backup would stop the gateway."""
    monkeypatch.setattr(migrate, "_LOCK_TIMEOUT", "50ms")
    migrate.upgrade(database_url, "0002")
    with Database(database_url) as database:
        if database.dialect != "postgresql":
            return  # SQLite has one lock, and writers wait for it for a limited time only
        with database.read() as backup:
            backup.execute(text(f"SELECT count(*) FROM {table}"))
            with pytest.raises(DatabaseUnavailableError):
                migrate.upgrade(database_url)
    assert migrate.upgrade(database_url) == version.head()


def test_commands(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    run = CliRunner().invoke
    assert run(db, ["current"]).output == "none\n"
    unready = run(db, ["check"])
    assert isinstance(unready.exception, SchemaOutdatedError)
    assert "hilum db upgrade" in unready.exception.next_step
    assert run(db, ["upgrade"]).output == f"{version.head()}\n"
    assert run(db, ["current"]).output == f"{version.head()}\n"
    assert run(db, ["check"]).exit_code == 0
