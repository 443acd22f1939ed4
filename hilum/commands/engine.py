"""``hilum engine``: build TensorRT plans for this machine, list and remove them."""

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
from hilum.engines.tensorrt.options import BuildOptions, Hardware, Profile
from hilum.engines.tensorrt.provision import Provided, build_into, graph_sha256
from hilum.engines.tensorrt.record import Machine, PlanRecord, misfit, this_machine
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineDamagedError, EngineMissingError, EngineUnavailableError
from hilum.packages.load import Package
from hilum.session import open_package
from hilum.settings import Settings


@click.group()
def engine() -> None:
    """Build and keep TensorRT plans: a package's graph, compiled for one kind of GPU."""


@engine.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Tuned for; default HILUM_WORKER__BATCH_SIZE."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Default: the package's.")
@click.option(
    "--hardware",
    type=click.Choice(["none", "same_compute_capability", "ampere_plus"]),
    default="none",
    show_default=True,
    help="Other GPUs the plan may run on; slower than one made for this GPU alone.",
)
@click.option("--version-compatible", is_flag=True, help="Also for later TensorRTs of this major.")
@click.option("--refittable", is_flag=True, hidden=True)
@click.option("--tf32", is_flag=True, help="Round float32 convolutions to 10 bits; fp32 only.")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="0 builds fastest, 5 searches longest.",
)
@click.option("--workspace-mb", type=click.IntRange(min=0), default=0, help="0: all there is.")
@click.option("--force", is_flag=True, help="Build also if there is one.")
@click.option("--json", "as_json", is_flag=True, help="The plan's record on stdout.")
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

    A plan that is there already is left alone; while a new one is built, the old one is in use.
    """
    if refittable:
        click.echo("--refittable has no effect any more and goes in the next release.", err=True)
    config = _settings()
    package = _load(location, config)
    largest = max_batch or package.manifest.input.max_batch
    options = BuildOptions(
        profile=Profile(optimum=min(batch or config.worker.batch_size, largest), maximum=largest),
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
            on_wait=lambda: click.echo("Another process is building this plan; waiting.", err=True),
        )
    _say(provided, as_json=as_json)


@engine.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def refit(arguments: tuple[str, ...]) -> None:
    """Say that this command is gone."""
    raise click.UsageError(
        "hilum no longer exchanges the weights of a plan. Build the plan of the new package: "
        "`hilum engine build PACKAGE`."
    )


@engine.command(name="list")
@click.argument("location", metavar="[PATH|s3://…]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a plan and line.")
def list_command(location: str | None, as_json: bool) -> None:
    """List the plans kept here, all or those of one package, and whether they run here."""
    config = _settings()
    store = PlanStore(config.engine_dir)
    graph = graph_sha256(_load(location, config).manifest) if location else None
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
    """Remove a plan, named by its id or the beginning of it."""
    store = PlanStore(_settings().engine_dir)
    found = [record for record in store.records() if record.key.id.startswith(plan)]
    if len(found) != 1:
        raise EngineMissingError(
            f"{len(found)} plans have an id that begins so.",
            next_step="`hilum engine list` shows the ids.",
        )
    store.remove(found[0])
    click.echo(f"removed {found[0].key.id}")


def _settings() -> Settings:
    config = settings.load()
    library.use(config.tensorrt.library)
    return config


def _load(location: str, config: Settings) -> Package:
    return open_package(config, location)


def _machine() -> Machine | None:
    try:
        return this_machine()
    except EngineUnavailableError:
        return None


def _runs(store: PlanStore, record: PlanRecord, machine: Machine | None) -> str | None:
    """Why a plan does not run here; ``None``: it does."""
    try:
        store.read(record)
    except EngineDamagedError as error:
        return error.detail
    return misfit(record.key, machine) if machine else "there is no TensorRT with a GPU here"


def _say(provided: Provided, *, as_json: bool) -> None:
    record = provided.record
    if as_json:
        click.echo(json.dumps(_document(record) | {"new": provided.new}))
        return
    what = f"in {record.build_seconds:.1f} s" if provided.new else "was there already"
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
    """A bar on a terminal; elsewhere a line for each of the builder's main steps."""
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
