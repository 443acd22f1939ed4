"""``hilum index``: enter an archive that was never scored."""

from __future__ import annotations

import click

from hilum import settings
from hilum.campaigns.indexing import index as run
from hilum.commands.operating import opened, show
from hilum.db.identity import open_vault
from hilum.errors import InvalidURIError
from hilum.machine import usable_cores
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS, open_local_store


@click.command()
@click.argument("source", metavar="s3://…|INVENTORY.csv")
@click.option("--tenant", required=True, help="Tenant that owns the films.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Requests to the store at the same time.",
)
@click.option("--restart", is_flag=True, help="Begin anew, also if an earlier run was broken off.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def index(source: str, tenant: str, threads: int, restart: bool, as_json: bool) -> None:
    """Enter the DICOM images of a folder in S3, or of an inventory, so that campaigns can select
    them.

    Only headers are read, by ranged requests. A run that is broken off goes on where it stopped
    when the same command is given again. Objects that are no images of DICOM are counted by the
    code of their error.
    """
    config = settings.load()
    inventory = source.endswith((".csv", ".csv.gz"))
    if not inventory and not source.startswith("s3://"):
        raise InvalidURIError(
            "The source is neither in S3 nor an inventory.",
            next_step="Use s3://bucket/folder, or a file that ends in .csv or .csv.gz.",
        )
    store = open_local_store(config)

    def progress(counts: dict[str, int]) -> None:
        click.echo(f"\r{counts['seen']} objects, {counts['entered']} entered", nl=False, err=True)

    with opened() as database, Decoders(usable_cores(), config.limits, tasks=DECODE_TASKS) as pool:
        counts = run(
            database,
            store,
            pool,
            tenant=tenant,
            source=source,
            vault=open_vault(config.identity),
            threads=threads,
            anew=restart,
            progress=(lambda counts: None) if as_json else progress,
        )
    if not as_json:
        click.echo(err=True)
    rest = {k: v for k, v in counts.items() if k not in ("seen", "entered", "known")}
    document = {name: counts.get(name, 0) for name in ("seen", "entered", "known")}
    show(
        {**document, "codes": rest},
        [f"{n} {name}" for name, n in document.items()]
        + [f"{n} left out: {code}" for code, n in sorted(rest.items())],
        as_json=as_json,
    )
