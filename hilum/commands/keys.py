"""``hilum keys``: manage the API keys of the gateway."""

from __future__ import annotations

import json

import click

from hilum.commands.operating import actor, opened
from hilum.db import keys as store
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
    help=f"What the key may do (repeatable): {', '.join(store.SCOPE_NAMES)}.  "
    f"[default: all but {Scope.ADMIN}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def create(tenant: str, name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Create a key, and print its secret. The secret cannot be shown again."""
    with opened() as database, database.write() as connection:
        key, secret = store.create(
            connection,
            tenant=tenant,
            name=name,
            scopes=scopes or list(store.CLIENT_SCOPES),
            actor=actor(),
        )
    if as_json:
        click.echo(json.dumps({"id": key.id, "tenant": tenant, "name": name, "secret": secret}))
        return
    click.echo(secret)
    click.echo(f"Created key {key.id} of tenant {tenant}. Save the secret above now.", err=True)


@keys.command(name="list")
def listing() -> None:
    """Print all keys, without their secrets."""
    with opened() as database, database.read() as connection:
        for key in store.listing(connection):
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
            scopes = ",".join(sorted(key.scopes))
            click.echo(f"{key.id}  {key.tenant}  {key.name}  {scopes}  {state}")


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke the key KEY_ID. It is invalid from now on."""
    with opened() as database, database.write() as connection:
        if not store.revoke(connection, key_id, actor=actor()):
            raise click.UsageError(f"There is no key {key_id}.")
