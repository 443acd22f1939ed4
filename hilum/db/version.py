"""Which schema a database has, and which code may use it.

A version of hilum is known by the newest revision it knows, its *head*. Revisions are four digits
and grow. The database keeps, in ``hilum_schema``, its revision and the head of the oldest code
that may use it. With this a version decides whether it may use a schema newer than its own.

The releases up to revision 0002 require exactly that revision in Alembic's own table
``alembic_version``. The table keeps it as long as they may use the database; afterwards it has the
real revision, which they refuse by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from hilum.db.connection import Database
from hilum.errors import SchemaOutdatedError, SchemaTooNewError

SCRIPTS: Final = Path(__file__).with_name("migrations")
TABLE: Final = "hilum_schema"
_OLD_HEAD: Final = "0002"  # of the last release that reads `alembic_version`


def _record(name: str, *columns: sa.Column[str]) -> sa.Table:
    # As Alembic creates it. Not in hilum.db.tables: migrations do not create or change it.
    revision = sa.Column("version_num", sa.String(32), nullable=False)
    key = sa.PrimaryKeyConstraint("version_num", name=f"{name}_pkc")
    return sa.Table(name, sa.MetaData(), revision, *columns, key)


_RECORD: Final = _record(TABLE, sa.Column("oldest_code", sa.String(32)))
_OLD_RECORD: Final = _record("alembic_version")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The schema of a database."""

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
    """As :func:`check`, for a schema that was read before."""
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


def read(connection: sa.Connection) -> Schema | None:
    """As :func:`schema_of`, within a transaction."""
    present = set(sa.inspect(connection).get_table_names())
    for table in (_RECORD, _OLD_RECORD):
        row = connection.execute(sa.select(table)).first() if table.name in present else None
        if row is not None:
            # The releases before have no oldest code: they accept their own schema only.
            return Schema(revision=row[0], oldest_code=row[-1])
    return None


def open_record(connection: sa.Connection) -> None:
    """Before migrations: create the record, with the revision that the release before wrote."""
    found = read(connection)
    _RECORD.create(connection, checkfirst=True)
    _write(connection, _RECORD, found)


def close_record(connection: sa.Connection) -> Schema | None:
    """After migrations: write the oldest code, and the revision that the releases before read."""
    revision = connection.execute(sa.select(_RECORD.c.version_num)).scalar()
    found = None if revision is None else Schema(revision=revision, oldest_code=_oldest(revision))
    _OLD_RECORD.create(connection, checkfirst=True)
    if found is None or found.revision <= _OLD_HEAD:  # as the release before wrote it
        _RECORD.drop(connection)
        _write(connection, _OLD_RECORD, found)
        return found
    _write(connection, _RECORD, found)
    revision = found.revision if found.oldest_code > _OLD_HEAD else _OLD_HEAD
    _write(connection, _OLD_RECORD, Schema(revision=revision, oldest_code=revision))
    return found


def refuse_unknown(found: Schema | None) -> None:
    """Raise unless this version has the migrations from the schema found."""
    known = {script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()}
    if found is not None and found.revision not in known:
        raise SchemaTooNewError(
            f"The database is at schema {found.revision}, which this version does not know."
        )


def _write(connection: sa.Connection, table: sa.Table, schema: Schema | None) -> None:
    connection.execute(sa.delete(table))
    if schema is not None:
        values = {"version_num": schema.revision, "oldest_code": schema.oldest_code}
        named = {name: value for name, value in values.items() if name in table.c}
        connection.execute(sa.insert(table).values(**named))


def _oldest(revision: str) -> str:
    """The oldest code that may use the database after every migration up to ``revision``."""
    scripts = ScriptDirectory(str(SCRIPTS)).walk_revisions("base", revision)
    return max(getattr(script.module, "oldest_code", script.revision) for script in scripts)
