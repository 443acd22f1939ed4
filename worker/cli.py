"""``hilum worker``."""

from __future__ import annotations

import logging

import click

from hilum import logs
from hilum import settings as settings_module
from hilum.db import version
from hilum.db.connection import Database
from hilum.db.identity import open_vault
from hilum.queue import Queue
from worker import metrics
from worker.app import serve
from worker.model import verify_and_register

log = logging.getLogger(__name__)


def _queues(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[Queue, ...]:
    try:
        return tuple(Queue(name.strip()) for name in value.split(","))
    except ValueError:
        raise click.BadParameter(f"the queues are {', '.join(Queue)}") from None


@click.command()
@click.option(
    "--queues",
    callback=_queues,
    default=",".join(Queue),
    show_default=True,
    help="Queues to serve. The most urgent queue that has work always comes first.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Number of processes, each with an engine; default HILUM_WORKER__PROCESSES.",
)
@click.option(
    "--model",
    metavar="PATH|s3://…",
    help="Model package to serve.  [default: HILUM_MODEL_URI]",
)
def worker(queues: tuple[Queue, ...], processes: int | None, model: str | None) -> int:
    """Score the images of queued studies until stopped (SIGTERM or Ctrl-C).

    Exits with 0 when stopped, and with 2 when it cannot serve: the model is missing or damaged, or
    this version must not use the schema of the database.
    """
    settings = settings_module.load()
    if model is not None:
        settings = settings.model_copy(update={"model_uri": model})
    open_vault(settings.identity)  # a missing secret is reported before any process starts
    database = Database(settings.database_url)
    version.check(database)
    manifest, served = verify_and_register(settings, database)
    logs.event(
        log,
        logging.INFO,
        "worker.starting",
        model=f"{manifest.name} {manifest.version}",
        digest=manifest.digest,
        demonstration_only=manifest.demonstration_only,
        queues=[queue.value for queue in queues],
    )
    with metrics.serve(settings.worker.metrics_address):
        return serve(
            settings,
            served,
            database,
            queues=queues,
            processes=processes or settings.worker.processes,
        )
