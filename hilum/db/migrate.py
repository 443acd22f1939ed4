"""Migrate a database to the schema of this version (:mod:`hilum.db.version`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from hilum.db import version
from hilum.db.connection import Database
from hilum.errors import UnexpectedError

# Any constants, but the same in every version. ASCII "hilum", and one more.
_LOCK: Final = 0x68696C756D
_PREPARING: Final = _LOCK + 1
# A migration that waits for the lock of a table, behind a backup for example, makes everybody else
# wait behind it. It fails instead, and can be repeated.
_LOCK_TIMEOUT: Final = "10s"


def upgrade(url: str, revision: str = "head") -> str:
    """Run the missing migrations, all in one transaction.

    Any number of processes may do this at once: one of them migrates, and the others wait and then
    find nothing to do. On PostgreSQL, work that a migration can do without locking a table is done
    before the transaction. A newer schema that this version may use is left as it is.

    Args:
        url: as for :class:`Database`.
        revision: the Alembic revision to stop at.

    Returns:
        The revision the database is at.

    Raises:
        ConfigurationError: hilum cannot use this URL.
        SchemaTooNewError: the schema is newer, and this version must not use it.
        DatabaseUnavailableError: the database does not answer, or a table stays locked by others.
    """
    with Database(url) as database:
        found = version.schema_of(database)
        if found is not None and found.revision > version.head():
            version.check_schema(found)
            return found.revision
        if database.dialect == "postgresql":
            _prepare(database, found, revision)
    return _migrate(url, command.upgrade, revision)


def downgrade(url: str, revision: str) -> str:
    """Undo migrations down to ``revision`` (``base``: all of them, with all data). Returns the
    revision, which is empty for ``base``; raises as :func:`upgrade` does."""
    return _migrate(url, command.downgrade, revision)


def _migrate(url: str, step: Callable[[Config, str], None], revision: str) -> str:
    config = Config()
    config.set_main_option("script_location", str(version.SCRIPTS).replace("%", "%%"))
    # SQLite copies a table to change it; meanwhile rows refer to a table that does not exist.
    with Database(url, foreign_keys=False) as database, database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        version.refuse_unknown(version.read(connection))
        version.open_record(connection)
        config.attributes["connection"] = connection
        step(config, revision)
        if (
            database.dialect == "sqlite"
            and connection.execute(text("PRAGMA foreign_key_check")).first()
        ):
            raise UnexpectedError("The migration would leave rows with broken references.")
        found = version.close_record(connection)
        return found.revision if found else ""


def _prepare(database: Database, found: version.Schema | None, revision: str) -> None:
    """Run ``prepare`` of each pending migration that has one.

    An index that is built concurrently waits for every transaction that holds a snapshot. A process
    that waits for its turn must therefore hold none: it polls the lock.
    """
    if found is None or revision <= found.revision:
        return
    scripts = ScriptDirectory(str(version.SCRIPTS))
    coming = [
        script.module.prepare
        for script in reversed(list(scripts.iterate_revisions(revision, found.revision)))
        if hasattr(script.module, "prepare")
    ]
    if not coming:
        return
    with database.autocommit() as connection, _take_turn(connection):
        for prepare in coming:
            connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
            prepare(connection)


@contextmanager
def _take_turn(connection: Connection) -> Iterator[None]:
    key = {"key": _PREPARING}
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
        time.sleep(0.2)
    try:
        yield
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
