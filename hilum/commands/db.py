"""``hilum db``: the schema of the SQL database."""

from __future__ import annotations

import click

from hilum.db import migrate, version
from hilum.db.connection import Database
from hilum.settings import load


@click.group()
def db() -> None:
    """The SQL database named by HILUM_DATABASE_URL."""


@db.command()
def upgrade() -> None:
    """Bring the schema to this version's. Safe to run at any time, from many places at once."""
    click.echo(migrate.upgrade(load().database_url))


@db.command()
def current() -> None:
    """Print the schema's revision, or `none`."""
    with Database(load().database_url) as database:
        found = version.schema_of(database)
        click.echo(found.revision if found else "none")


@db.command()
def check() -> None:
    """Fail unless this version may use the database: its schema is this version's, or a newer one
    that is marked as compatible. For init containers and scripts."""
    with Database(load().database_url) as database:
        version.check(database)
