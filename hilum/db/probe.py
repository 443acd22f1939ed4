"""Check by writing that the database accepts writes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from hilum.db.connection import Database
from hilum.errors import DatabaseUnavailableError


def require_writable(database: Database) -> None:
    """Commit a value that no table holds.

    SQLite: the user version in the header of the file, which hilum does not use otherwise.
    PostgreSQL: a message in the write-ahead log.

    Raises:
        DatabaseUnavailableError: the database is full, locked, read-only or unavailable.
    """
    with database.write() as connection:
        if database.dialect == "sqlite":
            version = connection.execute(text("PRAGMA user_version")).scalar_one()
            connection.execute(text(f"PRAGMA user_version = {(version + 1) % 2**31}"))
            return
        if connection.execute(text("SHOW transaction_read_only")).scalar_one() != "off":
            raise DatabaseUnavailableError("The database is read-only.")
        connection.execute(text("SELECT pg_logical_emit_message(true, 'hilum', 'ready')"))


def server_time(database: Database) -> datetime | None:
    """The time of the database's server; ``None`` for SQLite, which has no clock of its own."""
    if database.dialect == "sqlite":
        return None
    with database.read() as connection:
        found: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found
