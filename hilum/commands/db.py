"""``hilum db``: manage the schema of the SQL database."""

from __future__ import annotations

import time

import click

from hilum.db import migrate, version
from hilum.db.connection import Database
from hilum.errors import DatabaseUnavailableError, SchemaOutdatedError
from hilum.settings import load


@click.group()
def db() -> None:
    """Manage the schema of the SQL database HILUM_DATABASE_URL."""


@db.command()
def upgrade() -> None:
    """Upgrade the schema to this version. Safe to run at any time, also several times at once."""
    click.echo(migrate.upgrade(load().database_url))


@db.command()
def current() -> None:
    """Print the revision of the schema, or `none`."""
    with Database(load().database_url) as database:
        found = version.schema_of(database)
        click.echo(found.revision if found else "none")


@db.command()
def check() -> None:
    """Fail unless this version may use the database: its schema is this version's, or a newer one
    that is marked as compatible. For init containers and scripts."""
    with Database(load().database_url) as database:
        version.check(database)


@db.command()
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Longest wait, seconds.",
)
def wait(timeout_s: float) -> None:
    """Wait until this version may use the database, as `hilum db check` says. For init containers.

    Waits for the database to answer and for `hilum db upgrade`, which somebody else must run. Fails
    at once if the schema is newer than this version and must not be used by it.
    """
    end = time.monotonic() + timeout_s
    said = ""
    with Database(load().database_url, wait_s=5) as database:
        while True:
            try:
                version.check(database)
            except (DatabaseUnavailableError, SchemaOutdatedError) as error:
                if time.monotonic() >= end:
                    raise
                if error.detail != said:
                    click.echo(f"waiting: {error.detail}")
                    said = error.detail
                time.sleep(min(2.0, max(0.0, end - time.monotonic())))
            else:
                click.echo("ready")
                return
