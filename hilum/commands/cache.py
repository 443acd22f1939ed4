"""``hilum cache``: manage the prepared-image cache."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import click

from hilum import settings
from hilum.pipeline import cache as prepared
from hilum.session import open_local_store, open_package


@click.group()
def cache() -> None:
    """Manage the prepared-image cache (docs/operate/patient-data.md)."""


@cache.command()
def secret() -> None:
    """Print a new random secret, for HILUM_PREPARED__SECRET or HILUM_DEIDENTIFY__SECRET."""
    click.echo(secrets.token_urlsafe(36))


@cache.command()
@click.argument("bucket", metavar="BUCKET")
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Remove only entries that are older than DAYS.",
)
@click.option(
    "--model", metavar="PATH|s3://…", help="Remove only entries that this package would use."
)
def evict(bucket: str, days: float, model: str | None) -> None:
    """Remove entries from BUCKET: all, old ones, or those of one model.

    Films are never removed. A removed entry is made again when it is next needed.
    """
    config = settings.load()
    store = open_local_store(config)
    stage = ""
    if model:
        package = open_package(config, model, store=store)
        stage = package.manifest.preprocess.stage_digest
    before = datetime.now(UTC) - timedelta(days=days)
    name = bucket.removeprefix("s3://").strip("/")
    count = prepared.evict(store, config.prepared, name, before=before, stage=stage)
    click.echo(f"{count} entries removed.")
