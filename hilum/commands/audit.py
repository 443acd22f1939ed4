"""``hilum audit``: who did what."""

from __future__ import annotations

import click

from hilum import settings
from hilum.db import audit as store
from hilum.db import version
from hilum.db.connection import Database


@click.group()
def audit() -> None:
    """Check the audit, which records who did what."""


@audit.command()
def verify() -> None:
    """Check the chain of all audit rows, and print its length and its last hash.

    Fails and names the first wrong row if a row was changed, removed or inserted later. Keep the
    last hash elsewhere: only a comparison with it shows that rows are missing at the end.
    """
    with Database(settings.load().database_url) as database:
        version.check(database)
        with database.read() as connection:
            head = store.verify(connection)
    click.echo(f"{head.rows} rows, last hash {head.hash.hex()}")
