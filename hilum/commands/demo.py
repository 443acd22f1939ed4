"""``hilum demo``: run the whole system on this machine with sample films (``make run``)."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from hilum import settings
from hilum.embedded import bundled
from hilum.embedded import demo as demonstration
from hilum.embedded.client import Client
from hilum.embedded.demo import Outcome
from hilum.embedded.stack import Stack
from hilum.packages.manifest import Manifest
from hilum.session import open_local_store, open_package


@click.command()
@click.option("--once", is_flag=True, help="Exit after the results: 0 if all are as expected.")
@click.option(
    "--var",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var"),
    show_default=True,
    help="Folder of all state. The next start continues from it.",
)
@click.option("--port", type=int, help="Port of the gateway.  [default: a free port]")
@click.option(
    "--samples",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the synthetic films.  [default: those that come with hilum]",
)
@click.option(
    "--model",
    metavar="PATH|s3://…",
    help="Model package.  [default: HILUM_MODEL_URI, or the demonstration package]",
)
def demo(once: bool, var: Path, port: int | None, samples: Path | None, model: str | None) -> int:
    """Start the whole system on this machine, and score real and synthetic films.

    Starts Valkey, SeaweedFS, a worker and the gateway on free loopback ports, sends films, shows
    the results, and serves until Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are stopped
    console = Console()
    if not console.is_terminal:  # the table needs a width, and a log file has none
        console = Console(width=150)
    begin = time.monotonic()
    loaded = settings.load()
    if model is None:
        configured = "model_uri" in loaded.model_fields_set
        model = loaded.model_uri if configured else str(bundled.folder("demo"))
    manifest = open_package(loaded, model, store=open_local_store(loaded)).manifest
    films = demonstration.films(samples or bundled.folder("samples"))
    console.print(f"Starting Valkey, SeaweedFS, a worker and the gateway in {var} …")
    with Stack(var, port=port, model_uri=model) as stack:
        demonstration.upload(stack, films)
        secret = demonstration.api_key(stack, var / "api-key")
        client = Client(stack.url, secret)
        columns = (TextColumn("films"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("films", total=len(films))
            outcomes = demonstration.run(
                client,
                stack,
                films,
                model_digest=manifest.digest,
                progress=lambda done, _total: bar.update(task, completed=done),
            )
        console.print(f"Results after {time.monotonic() - begin:.1f} s.")
        console.print(_table(outcomes, manifest))
        for outcome in outcomes:
            if (error := outcome.image["error"]) is not None:
                console.print(f"{outcome.film.name}: {error['detail']} {error['next_step']}")
        if manifest.notice:
            console.print(f"[bold yellow]{manifest.notice}[/]")
        written = list(demonstration.overlays(client, outcomes, var / "overlays"))
        console.print(f"Heat maps      {len(written)} PNG in {var / 'overlays'}")
        console.print(f"API docs       {stack.url}/docs")
        console.print(f"First result   {stack.url}{outcomes[0].image['url']}")
        console.print(f"API key        {secret}", highlight=False)
        console.print(f"Logs           {stack.logs}")
        surprises = demonstration.surprises(outcomes)
        for surprise in surprises:
            console.print(f"[bold red]Unexpected outcome:[/] {surprise}")
        if once:
            return 1 if surprises else 0
        console.print("Serving until Ctrl-C.")
        try:
            child = stack.wait()
        except KeyboardInterrupt:
            console.print("Stopping.")
            return 0
        console.print(f"[bold red]{child.name} ended unexpectedly; see {child.log}.[/]")
        return 1


def _table(outcomes: list[Outcome], manifest: Manifest) -> Table:
    """One row per film with its probabilities. Findings are bold."""
    labels = manifest.label_set.labels
    table = Table(title=f"{manifest.name} {manifest.version}", caption=manifest.notice)
    table.add_column("film")
    table.add_column("description")
    table.add_column("doubts")
    for label in labels:
        table.add_column(label, justify="right")
    for outcome in outcomes:
        name, origin = outcome.film.name, outcome.film.origin
        result = outcome.image["result"]
        if result is None:
            table.add_row(name, origin, "", f"[yellow]{outcome.ended_as}[/]")
            continue
        found = {finding["label"] for finding in result["findings"]}
        cells = [
            f"[bold red]{p:.3f}[/]" if label in found else f"{p:.3f}"
            for label, p in outcome.probabilities.items()
        ]
        doubts = f"[bold red]{', '.join(result['doubts'])}[/]" if result["doubts"] else ""
        table.add_row(name, origin, doubts, *cells)
    return table
