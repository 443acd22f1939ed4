"""``hilum keys``: manage the API keys of the gateway."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from hilum import settings
from hilum.db import keys as store
from hilum.db import version
from hilum.db.connection import Database
from hilum.db.keys import Scope


@click.group()
def keys() -> None:
    """Manage the API keys of the gateway."""


@keys.command()
@click.option("--tenant", required=True, help="Tenant of the key, which sees no other's studies.")
@click.option("--name", required=True, help="Name of the key, for example the client's system.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help=f"What the key may do (repeatable): {', '.join(store.SCOPE_NAMES)}.  [default: all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def create(tenant: str, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Create a key, and print its secret. The secret cannot be shown again."""
    with _database() as database, database.write() as connection:
        key, secret = store.create(
            connection, tenant=tenant, name=name, scopes=scopes or list(Scope), actor=_actor()
        )
    if as_json:
        click.echo(json.dumps({"id": key.id, "tenant": tenant, "name": name, "secret": secret}))
        return
    click.echo(secret)
    click.echo(f"Created key {key.id} of tenant {tenant}. Save the secret above now.", err=True)


@keys.command(name="list")
def listing() -> None:
    """Print all keys, without their secrets."""
    with _database() as database, database.read() as connection:
        for key in store.listing(connection):
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
            scopes = ",".join(sorted(key.scopes))
            click.echo(f"{key.id}  {key.tenant}  {key.name}  {scopes}  {state}")


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke the key KEY_ID. It is invalid from now on."""
    with _database() as database, database.write() as connection:
        if not store.revoke(connection, key_id, actor=_actor()):
            raise click.UsageError(f"There is no key {key_id}.")


def _actor() -> str:
    """The actor: the user of this machine."""
    try:
        return f"cli:{getpass.getuser()}"[:100]
    except (OSError, KeyError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


@contextmanager
def _database() -> Iterator[Database]:
    with Database(settings.load().database_url) as database:
        version.check(database)
        yield database
