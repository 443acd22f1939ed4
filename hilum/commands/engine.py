"""``hilum engine``: build, list and remove the TensorRT plans of this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hilum import settings
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.build import Progress, Report
from hilum.engines.tensorrt.provision import Provided, build_into, graph_sha256
from hilum.engines.tensorrt.record import (
    BuildOptions,
    Hardware,
    Machine,
    PlanRecord,
    misfit,
    this_machine,
)
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineDamagedError, EngineMissingError, EngineUnavailableError
from hilum.session import open_package
from hilum.settings import Settings


@click.group()
def engine() -> None:
    """Build, list and remove TensorRT plans: graphs compiled for one kind of GPU."""


@engine.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Usual batch; default HILUM_WORKER__BATCH_SIZE."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Default: that of the package.")
@click.option(
    "--hardware",
    type=click.Choice(["none", "same_compute_capability", "ampere_plus"]),
    default="none",
    show_default=True,
    help="Other GPUs that the plan may run on. Such a plan is slower.",
)
@click.option("--version-compatible", is_flag=True, help="Run on later minor versions too.")
@click.option("--refittable", is_flag=True, hidden=True)
@click.option("--tf32", is_flag=True, help="Compute float32 convolutions in TF32 (10 bits).")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="0 builds fastest, 5 optimises most.",
)
@click.option("--workspace-mb", type=click.IntRange(min=0), default=0, help="0: no limit.")
@click.option("--force", is_flag=True, help="Build even if the plan exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of the plan as JSON.")
def build(  # noqa: PLR0917 -- click passes them by name
    location: str,
    batch: int | None,
    max_batch: int | None,
    hardware: Hardware,
    version_compatible: bool,
    refittable: bool,
    tf32: bool,
    optimization_level: int,
    workspace_mb: int,
    force: bool,
    as_json: bool,
) -> None:
    """Build the plan of a package for this machine's GPU. Takes seconds to many minutes.

    An existing plan is kept. With --force it stays in use until the new one is finished.
    """
    if refittable:
        click.echo("--refittable has no effect, and will be removed.", err=True)
    config = _settings()
    package = open_package(config, location)
    largest = max_batch or package.manifest.input.max_batch
    options = BuildOptions(
        profile=(1, min(batch or config.worker.batch_size, largest), largest),
        optimization_level=optimization_level,
        hardware=hardware,
        version_compatible=version_compatible,
        tf32=tf32,
        workspace_bytes=workspace_mb * 2**20,
    )
    with _progress() as report:
        provided = build_into(
            PlanStore(config.engine_dir),
            package,
            options,
            force=force,
            report=report,
            on_wait=lambda: click.echo("Waiting for a process that builds this plan.", err=True),
        )
    _show(provided, as_json=as_json)


@engine.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def refit(arguments: tuple[str, ...]) -> None:
    """Say that this command was removed."""
    raise click.UsageError(
        "`hilum engine refit` was removed. Build the plan of the new package with "
        "`hilum engine build PACKAGE`."
    )


@engine.command(name="list")
@click.argument("location", metavar="[PATH|s3://…]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line and plan.")
def list_command(location: str | None, as_json: bool) -> None:
    """List all stored plans, or those of one package, and say which run on this machine."""
    config = _settings()
    store = PlanStore(config.engine_dir)
    graph = graph_sha256(open_package(config, location).manifest) if location else None
    machine = _machine()
    for record in store.records():
        if graph in (None, record.key.graph_sha256):
            runs = _runs(store, record, machine)
            if as_json:
                click.echo(json.dumps(_document(record) | {"runs_here": runs is None, "why": runs}))
            else:
                click.echo(f"{_line(record)}  {'runs here' if runs is None else runs}")


@engine.command()
@click.argument("plan", metavar="ID")
def remove(plan: str) -> None:
    """Remove the plan whose id is, or begins with, ID."""
    store = PlanStore(_settings().engine_dir)
    found = [record for record in store.records() if record.key.id.startswith(plan)]
    if len(found) != 1:
        raise EngineMissingError(
            f"{len(found)} plans have an id that begins with {plan!r}; it must be exactly one.",
            next_step="List the ids with `hilum engine list`.",
        )
    store.remove(found[0])
    click.echo(f"removed {found[0].key.id}")


def _settings() -> Settings:
    config = settings.load()
    library.use(config.tensorrt.library)
    return config


def _machine() -> Machine | None:
    try:
        return this_machine()
    except EngineUnavailableError:
        return None


def _runs(store: PlanStore, record: PlanRecord, machine: Machine | None) -> str | None:
    """Why a plan does not run on this machine, or ``None`` if it does."""
    try:
        store.read(record)
    except EngineDamagedError as error:
        return error.detail
    return misfit(record.key, machine) if machine else "this machine has no TensorRT or no GPU"


def _show(provided: Provided, *, as_json: bool) -> None:
    record = provided.record
    if as_json:
        click.echo(json.dumps(_document(record) | {"new": provided.new}))
        return
    what = f"built in {record.build_seconds:.1f} s" if provided.new else "already built"
    click.echo(f"{_line(record)}  {what}")


def _line(record: PlanRecord) -> str:
    key = record.key
    return (
        f"{key.id[:8]}  {record.model} {key.precision}  {key.library} {key.library_version}  "
        f"{key.device} {key.sm}  batch {key.profile[0]}-{key.profile[2]}  "
        f"{record.plan_bytes / 2**20:.1f} MiB"
    )


def _document(record: PlanRecord) -> dict[str, Any]:
    return {"id": record.key.id, **record.model_dump(mode="json")}


@contextmanager
def _progress() -> Iterator[Report]:
    """Show a progress bar on a terminal, and elsewhere a line for each main step of the build."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    if not sys.stderr.isatty():
        yield _lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        whole = bar.add_task("TensorRT", total=None)
        part = bar.add_task("", total=None)

        def show(step: Progress) -> None:
            task = whole if step.parent is None else part
            bar.update(task, description=step.phase, completed=step.done, total=step.steps)

        yield show


def _lines(step: Progress) -> None:
    if step.parent is None:
        click.echo(f"{step.phase}: {step.done}/{step.steps}", err=True)
