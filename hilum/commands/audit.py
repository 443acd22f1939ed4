"""``hilum audit``: who did what."""

from __future__ import annotations

import click

from hilum import settings
from hilum.db import audit as store
from hilum.db import version
from hilum.db.connection import Database


@click.group()
def audit() -> None:
    """Look after the audit of what operators and readers did."""


@audit.command()
def verify() -> None:
    """Check the chain of all audit rows, and print its length and its last hash.

    Fails and names the first wrong row if one was changed, removed or put in later. Keep the last
    hash elsewhere: rows missing from the end can only be noticed by comparing it.
    """
    with Database(settings.load().database_url) as database:
        version.check(database)
        with database.read() as connection:
            head = store.verify(connection)
    click.echo(f"{head.rows} rows, last hash {head.hash.hex()}")
