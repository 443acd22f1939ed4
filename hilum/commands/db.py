"""``hilum db``: manage the schema of the SQL database."""

from __future__ import annotations

import click

from hilum.db import migrate, version
from hilum.db.connection import Database
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
