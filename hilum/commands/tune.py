"""``hilum tune``: measure threads × batch size on this machine, and store the best for workers."""

from __future__ import annotations

import io
import json

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

from hilum import settings
from hilum.engines import tuning
from hilum.engines.onnxruntime import OnnxRuntimeEngine, name_of
from hilum.machine import usable_cores
from hilum.packages.load import check_signature
from hilum.session import open_package


@click.command()
@click.argument("location", metavar="PATH|s3://…", required=False)
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0), help="Per combination."
)
@click.option("--dry-run", is_flag=True, help="Measure, but do not store the result.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune(location: str | None, seconds: float, dry_run: bool, as_json: bool) -> None:
    """Measure the best number of threads and batch size for a model on this CPU.

    The default model is HILUM_MODEL_URI. The result is stored beside the package, in
    PACKAGE.tuning.json, for this kind of machine. Workers and `hilum score` apply it when they
    start, unless the settings give threads or batch size. Run this on an idle machine.
    """
    config = settings.load()
    package = open_package(config, location)
    check_signature(package, config)
    variant = package.manifest.graph_for("cpu")
    with np.load(io.BytesIO(package.read(variant.golden)), allow_pickle=False) as arrays:
        images = arrays["image"]
    threads = tuning.thread_counts(usable_cores())
    batches = tuning.batch_sizes(package.manifest.input.max_batch)
    cells: list[tuning.Cell] = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=len(threads) * len(batches))
        for cell in tuning.sweep(
            lambda count: OnnxRuntimeEngine(package, count),
            images,
            threads=threads,
            batches=batches,
            seconds=seconds,
        ):
            cells.append(cell)
            bar.advance(task)
    engine = name_of(package.manifest, "cpu")
    tuned = tuning.Tuned(
        machine=tuning.this_machine(), engine=engine, best=tuning.best(cells), cells=tuple(cells)
    )
    path = None if dry_run else tuning.store(package, tuned)
    if as_json:
        kept = str(path) if path else None
        click.echo(json.dumps({"digest": package.digest, "kept": kept, **tuned.model_dump()}))
        return
    click.echo(f"{package.manifest.name} {package.manifest.version} on {engine}; {tuned.machine}")
    click.echo("images/s    " + "".join(f"batch {batch:<5}" for batch in batches))
    for count in threads:
        row = [cell for cell in cells if cell.threads == count]
        speeds = "".join(f"{cell.images_per_s:<11.1f}" for cell in row)
        click.echo(f"{count:>3} threads {speeds}")
    found = tuned.best
    click.echo(
        f"best: {found.threads} threads, batch {found.batch}: {found.images_per_s:.1f} images/s, "
        f"{found.batch_s * 1000:.0f} ms per batch" + (f"; stored in {path}" if path else "")
    )
