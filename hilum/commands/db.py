"""``hilum db``: the schema of the SQL database."""

from __future__ import annotations

import click

from hilum.db import migrate
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
        click.echo(migrate.revision_of(database) or "none")


@db.command()
def check() -> None:
    """Fail unless the schema is exactly this version's. For init containers and scripts."""
    with Database(load().database_url) as database:
        migrate.require_current(database)
