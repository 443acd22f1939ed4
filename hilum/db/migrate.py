"""Bring a database to the schema of this version, and tell whether it is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from hilum.db.connection import Database
from hilum.errors import ConfigurationError

_SCRIPTS: Final = Path(__file__).with_name("migrations")
# Any constant will do, as long as every hilum takes the same. ASCII «hilum».
_LOCK: Final = 0x68696C756D


def upgrade(url: str, revision: str = "head") -> str:
    """Run the migrations that are missing, all in one transaction.

    Any number of processes may do this at once: one of them migrates and the others wait, then
    find nothing to do. SQLite's write lock does that by itself.

    Args:
        url: as for :class:`Database`.
        revision: how far; an Alembic revision.

    Returns:
        The revision the database is at.

    Raises:
        ConfigurationError: the URL is not one hilum can use, or a newer hilum was here.
        DatabaseUnavailableError: the database does not answer.
    """
    return _migrate(url, command.upgrade, revision)


def downgrade(url: str, revision: str) -> str:
    """Undo migrations down to ``revision`` (``base``: all of them, with all data). Otherwise as
    :func:`upgrade`; returns an empty text for ``base``."""
    return _migrate(url, command.downgrade, revision)


def revision_of(database: Database) -> str | None:
    """The revision the database is at; ``None`` if it has never been migrated."""
    with database.read() as connection:
        return _revision(connection)


@cache
def head() -> str:
    """The revision this version of hilum works with."""
    revision = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    assert revision is not None  # there is a first one
    return revision


def is_current(database: Database) -> bool:
    """Whether the database has exactly the schema of this version."""
    return revision_of(database) == head()


def require_current(database: Database) -> None:
    """Raise :class:`ConfigurationError` unless :func:`is_current`."""
    found = revision_of(database)
    if found != head():
        raise ConfigurationError(
            f"The database is at schema {found or 'none'}; this version needs {head()}.",
            next_step="Run `hilum db upgrade` with the same HILUM_DATABASE_URL.",
        )


def _migrate(url: str, step: Callable[[Config, str], None], revision: str) -> str:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    with Database(url) as database, database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _refuse_unknown(connection)
        config.attributes["connection"] = connection
        step(config, revision)
        return _revision(connection) or ""


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(connection: Connection) -> None:
    found = _revision(connection)
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    if found is not None and found not in known:
        raise ConfigurationError(
            f"The database is at schema {found}, which this version does not know.",
            next_step="Use the version of hilum that migrated it, or a newer one.",
        )
