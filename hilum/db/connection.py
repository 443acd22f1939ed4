"""Connections to SQLite and PostgreSQL with the same transactional behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from hilum.errors import ConfigurationError, DatabaseUnavailableError

_WRITE = "hilum_write"


class Database:
    """The SQL database. Create one a process, after any fork.

    ``read()`` and ``write()`` each give one connection with one transaction, committed at the
    end of the block and rolled back if it raises.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise ConfigurationError("HILUM_DATABASE_URL is not a database URL.") from None
        if parsed.drivername in {"postgres", "postgresql"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            self._engine = _sqlite(parsed.render_as_string(hide_password=False), parsed.database)
        elif self.dialect == "postgresql":
            self._engine = create_engine(
                parsed, pool_size=pool_size, pool_pre_ping=True, hide_parameters=True
            )
        else:
            raise ConfigurationError(
                f"HILUM_DATABASE_URL names {self.dialect}; hilum knows sqlite and postgresql."
            )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for queries."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection for changes. On SQLite it holds the write lock from the start, so that a
        read-then-write inside it never fails half way with «database is locked»."""
        with self._transaction(write=True) as connection:
            yield connection

    def ping(self) -> None:
        """Raise :class:`DatabaseUnavailableError` if the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def dispose(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(**{_WRITE: write})
                with connection.begin():
                    yield connection
        except (OperationalError, InterfaceError) as error:
            # The driver's text may quote the statement's values: name the kind only.
            kind = type(error.orig).__name__
            raise DatabaseUnavailableError(f"The database did not answer ({kind}).") from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise DatabaseUnavailableError("The database closed the connection.") from error


def insert_or_ignore(connection: Connection, table: Table) -> pg.Insert | sqlite.Insert:
    """``INSERT … ON CONFLICT DO NOTHING``.

    Both databases spell it alike, but SQLAlchemy keeps it by dialect.
    """
    if connection.dialect.name == "postgresql":
        return pg.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _sqlite(url: str, file: str | None) -> Engine:
    if not file or file == ":memory:":
        raise ConfigurationError("An in-memory SQLite is private to its process; name a file.")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(dbapi: Any, _record: object) -> None:
        # The driver's own BEGIN is deferred and cannot be steered: we say BEGIN ourselves.
        dbapi.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            dbapi.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
