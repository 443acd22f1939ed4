"""``hilum score``: the pipeline on files, folders and S3 prefixes, with no service running."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hilum import settings
from hilum.cli import EXIT_PARTLY
from hilum.commands.overlays import PREVIEW_SIDE, Overlays
from hilum.commands.score_report import (
    Ending,
    JsonReport,
    Report,
    TextReport,
    endings_of,
    named,
    printable,
    summary,
)
from hilum.deidentify.pseudonyms import Pseudonyms, open_pseudonyms
from hilum.errors import HilumError, ObjectMissingError
from hilum.machine import usable_cores
from hilum.packages.manifest import Manifest
from hilum.pipeline.execute import execute
from hilum.session import open_local_store, open_session
from hilum.settings import Settings
from hilum.storage import ObjectStore


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH|s3://… …")
@click.option("--model", metavar="PATH|s3://…", help="Model package; default HILUM_MODEL_URI.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line and image.")
@click.option(
    "--overlay-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the Grad-CAM map of each finding over its film, as PNG, into this folder.",
)
@click.option(
    "--overlay-label",
    multiple=True,
    metavar="LABEL",
    help="Write the map of this label whether found or not; repeatable. Needs --overlay-dir.",
)
@click.option(
    "--deidentify",
    is_flag=True,
    help="Pseudonyms for addresses, UIDs and sha256; text in overlays is covered. Needs "
    "HILUM_DEIDENTIFY__SECRET.",
)
@click.pass_context
def score(
    context: click.Context,
    *,
    paths: tuple[str, ...],
    model: str | None,
    as_json: bool,
    overlay_dir: Path | None,
    overlay_label: tuple[str, ...],
    deidentify: bool,
) -> None:
    """Score DICOM chest films: files, folders (with all below), s3:// objects or prefixes.

    Exit 0: all were scored; 3: some were refused or failed, each with its error, or scored under
    a sure doubt (not_chest, not_frontal, inverted, rotated, mirrored, blank; not maybe_…); 2: wrong
    use, or nothing could be scored at all (nothing found, no model).
    """
    if overlay_label and overlay_dir is None:
        raise click.UsageError("--overlay-label needs --overlay-dir.")
    try:
        config = settings.load()
        names = open_pseudonyms(config.deidentify) if deidentify else None
        how = _How(
            model=model or config.model_uri,
            as_json=as_json,
            overlay_dir=overlay_dir,
            overlay_label=overlay_label,
            pseudonyms=names,
        )
        counts = _run(paths, how, config)
    except HilumError as error:
        if as_json:
            click.echo(json.dumps({"error": error.body()}))
        raise
    context.exit(0 if set(counts) == {"scored"} else EXIT_PARTLY)  # not if any is doubtful


@dataclass(frozen=True, kw_only=True)
class _How:
    """What the command line asks for."""

    model: str
    as_json: bool
    overlay_dir: Path | None
    overlay_label: tuple[str, ...]
    pseudonyms: Pseudonyms | None


def _run(paths: tuple[str, ...], how: _How, config: Settings) -> Counter[Ending]:
    """Score everything and show it as it comes; how many ended how."""
    store = open_local_store(config)
    found, many = _find(paths, store)
    with open_session(
        config,
        model=how.model,
        store=store,
        decode_processes=usable_cores() if many else 1,
        preview_side=PREVIEW_SIDE if how.overlay_dir else None,
    ) as session:
        overlays = _overlays(how, config, session.package.manifest)
        report: Report = (
            JsonReport(session.scorer, _say, pseudonyms=how.pseudonyms)
            if how.as_json
            else TextReport(session.scorer, _say, many=many, pseudonyms=how.pseudonyms)
        )
        size = session.settings.worker.batch_size
        outcomes = execute(
            found,
            session.loader.load,
            session.scorer.score_each,
            threads=session.threads,
            batch_size=size,
            ahead=2 + usable_cores() // size,
        )
        counts: Counter[Ending] = Counter()
        with _progress(paths, store, shown=many and sys.stderr.isatty()) as advance:
            for outcome in chain.from_iterable(outcomes):
                name = named(outcome.key, how.pseudonyms)
                files = overlays.write(name, outcome.result) if overlays else []
                report.show(outcome.key, outcome.result, files)
                counts.update(endings_of(outcome.result))
                advance()
    if many:
        click.echo(summary(counts), err=True)
    return counts


def _overlays(how: _How, config: Settings, manifest: Manifest) -> Overlays | None:
    if how.overlay_dir is None:
        return None
    deidentify = None if how.pseudonyms is None else config.deidentify
    return Overlays(how.overlay_dir, how.overlay_label, manifest, deidentify=deidentify)


def _find(paths: tuple[str, ...], store: ObjectStore) -> tuple[Iterator[str], bool]:
    """The addresses of all objects below ``paths``, listed as they are used, and whether there
    is more than one.

    Raises:
        ObjectMissingError: there is none.
    """
    for path in paths:
        if "://" not in path and not Path(path).exists():
            raise ObjectMissingError(
                f"There is no file or folder {printable(path)}.", next_step="Check the path."
            )
    rest = chain.from_iterable(store.iter_uris(path) for path in paths)
    first = list(islice(rest, 2))
    if not first and not any(path.startswith("s3://") for path in paths):
        raise ObjectMissingError(
            "The folder has no files; those whose names begin with a dot are not read.",
            next_step="Check the path.",
        )
    if not first:
        raise ObjectMissingError(
            "There is no object at that address.", next_step="Check the bucket and prefix, or path."
        )
    return chain(first, rest), len(first) > 1


@contextmanager
def _progress(
    paths: tuple[str, ...], store: ObjectStore, *, shown: bool
) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; yields what moves it on by one image."""
    if not shown:
        yield lambda: None
        return
    # Counting files is quick; counting objects of S3 would cost a request for every thousand.
    local = not any(path.startswith("s3://") for path in paths)
    total = sum(1 for path in paths for _ in store.iter_uris(path)) if local else None
    # Results on the same terminal go above the bar; results in a pipe are left alone.
    with Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda: bar.advance(task)


def _say(line: str) -> None:
    """One line of results, now: the reader may be waiting for it, or be gone."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
