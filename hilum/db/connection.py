"""Connections to SQLite and PostgreSQL with the same transactional behaviour."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection as Connection  # noqa: PLC0414 - above hilum.db, nobody knows SQL
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite

from hilum.errors import ConfigurationError, DatabaseUnavailableError, UnexpectedError

_WRITE = "hilum_write"
# PostgreSQL's `read_only_sql_transaction`: a server that has just become, or is still, the standby.
_READ_ONLY = "25006"
# libpq's defaults wait for minutes for a server that has vanished.
_PG_TIMEOUTS = {"connect_timeout": "5", "tcp_user_timeout": "30000"}  # seconds, milliseconds


class Database:
    """The SQL database. Create one a process, after any fork; safe to share between threads.

    ``read()`` and ``write()`` each give one connection with one transaction, committed at the
    end of the block and rolled back if it raises. Errors of the driver become
    :class:`DatabaseUnavailableError` (try again later) or :class:`UnexpectedError` (the database
    refused a statement), without the driver's text.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://…``; nothing is connected yet.
        pool_size: connections kept open to PostgreSQL; twice as many more are opened on demand.
        foreign_keys: whether SQLite enforces them; only migrations switch this off.
        wait_s: how long to wait for a free connection, or for SQLite's lock.

    Raises:
        ConfigurationError: hilum cannot use this URL. The text quotes nothing of it.
    """

    def __init__(
        self, url: str, *, pool_size: int = 5, foreign_keys: bool = True, wait_s: float = 30
    ) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in {"postgres", "postgresql"}:
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.dialect = parsed.get_backend_name()
        except (exc.ArgumentError, exc.NoSuchModuleError, ValueError):
            raise ConfigurationError("HILUM_DATABASE_URL is not a database URL.") from None
        if self.dialect == "sqlite":
            self._engine = _sqlite(parsed, wait_s, foreign_keys=foreign_keys)
        elif self.dialect == "postgresql":
            self._engine = _postgresql(parsed, pool_size, wait_s)
        else:
            raise ConfigurationError(
                "HILUM_DATABASE_URL must name a sqlite or postgresql database."
            )

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for queries."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection for changes. On SQLite it holds the write lock from the start, so that a
        read-then-write inside it never fails half way with "database is locked"."""
        with self._transaction(write=True) as connection:
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[sa.Connection]:
        """A connection to PostgreSQL on which each statement is a transaction of its own."""
        with self._translate_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()

    def dispose(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        with self._translate_errors(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITE: write})
            with connection.begin():
                yield connection

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError:
            raise DatabaseUnavailableError("All connections to the database are in use.") from None
        except exc.DBAPIError as error:
            # The driver's text may quote values of the statement: name its type only.
            kind = type(error.orig).__name__
            away = error.connection_invalidated or isinstance(
                error, exc.OperationalError | exc.InterfaceError
            )
            if away or getattr(error.orig, "sqlstate", None) == _READ_ONLY:
                raise DatabaseUnavailableError(f"The database did not answer ({kind}).") from None
            raise UnexpectedError(f"The database refused a statement ({kind}).") from None


def insert_into(connection: sa.Connection, table: sa.Table) -> pg.Insert | sqlite.Insert:
    """An INSERT that can handle conflicts. Both databases spell it alike, but SQLAlchemy has one
    construct for each dialect."""
    return pg.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_or_ignore(connection: sa.Connection, table: sa.Table) -> pg.Insert | sqlite.Insert:
    """``INSERT … ON CONFLICT DO NOTHING``."""
    return insert_into(connection, table).on_conflict_do_nothing()


def is_one_of(
    connection: sa.Connection, column: sa.ColumnElement[Any], values: Collection[int]
) -> sa.ColumnElement[bool]:
    """``column IN values`` with all values in one parameter.

    SQLAlchemy and the driver need longer to write out a list of 1,000 parameters than the database
    needs to find the rows.
    """
    if connection.dialect.name == "postgresql":
        return column == sa.any_(sa.literal([*values], pg.ARRAY(sa.BigInteger)))
    return column.in_(
        sa.select(sa.func.json_each(json.dumps([*values])).table_valued("value").c.value)
    )


def _postgresql(url: sa.URL, pool_size: int, wait_s: float) -> sa.Engine:
    return sa.create_engine(
        url.update_query_dict({**_PG_TIMEOUTS, **url.query}),
        pool_size=pool_size,
        max_overflow=2 * pool_size,
        pool_timeout=wait_s,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _sqlite(url: sa.URL, wait_s: float, *, foreign_keys: bool) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            "HILUM_DATABASE_URL must name a file: an in-memory SQLite is private to its process."
        )
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"HILUM_DATABASE_URL: the folder of the file cannot be created ({error.strerror})."
        ) from None
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": wait_s})

    @sa.event.listens_for(engine, "connect")
    def _configure(dbapi: Any, _record: object) -> None:
        # The driver's own BEGIN is always deferred, so we send BEGIN ourselves.
        dbapi.isolation_level = None
        enforced = f"foreign_keys={'ON' if foreign_keys else 'OFF'}"
        for pragma in ("journal_mode=WAL", "synchronous=FULL", enforced):
            dbapi.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
