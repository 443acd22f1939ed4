"""Which schema a database has, which code may use it, and whether this version may.

A version of hilum is known by the newest revision it knows, its *head*. Revisions are four digits
and grow. The database keeps, in ``hilum_schema``, its revision and the head of the oldest code
that may use it, so that a version can tell whether it may use a schema that is newer than itself.

The releases up to revision 0002 demand exactly that revision in Alembic's own table
``alembic_version``. It stays there for as long as they may use the database; once they may not,
the real revision stands there, which they refuse by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from hilum.db.connection import Database
from hilum.errors import ConfigurationError, SchemaOutdatedError, SchemaTooNewError

SCRIPTS: Final = Path(__file__).with_name("migrations")
TABLE: Final = "hilum_schema"
_OLD_TABLE: Final = "alembic_version"
_OLD_HEAD: Final = "0002"  # of the last release that reads _OLD_TABLE


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a database says of its schema."""

    revision: str
    oldest_code: str  # the head of the oldest code that may use it


@cache
def head() -> str:
    """The newest revision that this version of hilum knows."""
    revision = ScriptDirectory(str(SCRIPTS)).get_current_head()
    assert revision is not None  # there is a first one
    return revision


def schema_of(database: Database) -> Schema | None:
    """The schema that the database has; ``None`` if it has never been migrated."""
    with database.read() as connection:
        return read(connection)


def check(database: Database) -> None:
    """Raise unless this version may use the database.

    Raises:
        SchemaOutdatedError: its schema is older than this version needs, or there is none.
        SchemaTooNewError: its schema is newer, and only for newer code.
    """
    check_schema(schema_of(database))


def check_schema(found: Schema | None) -> None:
    """As :func:`check`, of what was found."""
    if found is None or found.revision < head():
        raise SchemaOutdatedError(
            f"The database is at schema {found.revision if found else 'none'}; "
            f"this version needs {head()}."
        )
    if found.oldest_code > head():
        raise SchemaTooNewError(
            f"The database is at schema {found.revision}, which only code for schema "
            f"{found.oldest_code} or newer may use; this version is for {head()}."
        )


def read(connection: Connection) -> Schema | None:
    """As :func:`schema_of`, within a transaction."""
    tables = inspect(connection)
    if tables.has_table(TABLE):
        row = connection.execute(text(f"SELECT version_num, oldest_code FROM {TABLE}")).first()
        if row is not None:
            return Schema(revision=row.version_num, oldest_code=row.oldest_code)
    if tables.has_table(_OLD_TABLE):
        old = connection.execute(text(f"SELECT version_num FROM {_OLD_TABLE}")).scalar()
        if old is not None:
            return Schema(revision=old, oldest_code=old)
    return None


def open_record(connection: Connection) -> None:
    """Before migrations: make the record, with what the release before has left."""
    found = read(connection)
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (version_num VARCHAR(32) NOT NULL, "
            f"oldest_code VARCHAR(32), CONSTRAINT {TABLE}_pkc PRIMARY KEY (version_num))"
        )
    )
    _set(connection, TABLE, found)


def close_record(connection: Connection) -> Schema | None:
    """After migrations: note the oldest code, and what the releases before look for."""
    revision = connection.execute(text(f"SELECT version_num FROM {TABLE}")).scalar()
    found = None if revision is None else Schema(revision=revision, oldest_code=_oldest(revision))
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {_OLD_TABLE} (version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {_OLD_TABLE}_pkc PRIMARY KEY (version_num))"
        )
    )
    if found is None or found.revision <= _OLD_HEAD:  # as the release before leaves it
        connection.execute(text(f"DROP TABLE {TABLE}"))
        _set(connection, _OLD_TABLE, found)
        return found
    _set(connection, TABLE, found)
    told = found.revision if found.oldest_code > _OLD_HEAD else _OLD_HEAD
    _set(connection, _OLD_TABLE, Schema(revision=told, oldest_code=told))
    return found


def refuse_unknown(found: Schema | None) -> None:
    """Raise unless this version knows the way from the schema found."""
    known = {script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()}
    if found is not None and found.revision not in known:
        raise SchemaTooNewError(
            f"The database is at schema {found.revision}, which this version does not know."
        )


def _set(connection: Connection, table: str, schema: Schema | None) -> None:
    connection.execute(text(f"DELETE FROM {table}"))
    if schema is None:
        return
    values = {"version_num": schema.revision}
    if table == TABLE:
        values["oldest_code"] = schema.oldest_code
    names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


def _oldest(revision: str) -> str:
    """The oldest code that every migration up to ``revision`` lets use the database."""
    scripts = ScriptDirectory(str(SCRIPTS)).walk_revisions("base", revision)
    return max(getattr(script.module, "oldest_code", script.revision) for script in scripts)
