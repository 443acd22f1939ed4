"""``hilum train evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import TaskID

from hilum import settings
from trainer.progress import progress_bar


@click.command()
@click.argument("model", metavar="CHECKPOINT|PACKAGE")
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The data-set table.  [default: the one of the checkpoint's training]",
)
@click.option(
    "--to", "out", required=True, type=click.Path(path_type=Path), help="Folder for the report."
)
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train"]),
    default="test",
    show_default=True,
    help="Split of the data-set table.",
)
@click.option(
    "--operating-point",
    "rule",
    metavar="RULE",
    help="Rule that chooses operating points on validation: youden, f1, sensitivity>=0.90, "
    "specificity>=0.95 or ppv>=0.30.  [default: the package's own; youden for a checkpoint]",
)
@click.option(
    "--calibration",
    "method",
    type=click.Choice(["platt", "temperature", "none"]),
    help="Calibration to fit on validation.  [default: the package's own; platt for a checkpoint]",
)
@click.option(
    "--replicates",
    default=1000,
    show_default=True,
    type=click.IntRange(min=100),
    help="Number of bootstrap draws of patients.",
)
@click.option(
    "--gallery",
    default=12,
    show_default=True,
    type=click.IntRange(min=0),
    help="Films with maps in the page, without names. 0: the page shows no film.",
)
@click.option(
    "--max-bad-fraction",
    type=click.FloatRange(0, 1),
    help="Share of the films that may be missing, unreadable or listed twice.  "
    "[default: that of the checkpoint's training; 0.01 for a package]",
)
@click.option("--no-shortcuts", is_flag=True, help="Skip the two runs with masked corners.")
def evaluate(
    *,
    model: str,
    manifest_path: Path | None,
    out: Path,
    rule: str | None,
    gallery: int,
    no_shortcuts: bool,
    **chosen: Any,
) -> None:
    """Measure a checkpoint or a package on a split of a data-set table, by default `test`.

    Writes metrics.json and report.html into the folder given with --to. The page is one file that
    opens without a network. It shows AUROC and average precision with intervals over patients,
    operating points, calibration, subgroups, maps beside a centre-point baseline, shortcut checks,
    and, on ChestX-ray14's official test split, the published figures.

    A package is measured with its own operating points and calibration. Those of a checkpoint are
    fitted on the split `val`, so with `--split val` its figures are in-sample; metrics.json and the
    page say so.
    """
    # torch takes seconds to import; `hilum train evaluate --help` should not.
    from trainer.calibration import Rule  # noqa: PLC0415
    from trainer.evaluation import evaluate as evaluation  # noqa: PLC0415

    options = evaluation.Options(
        rule=None if rule is None else Rule.parse(rule),
        gallery=gallery,
        shortcuts=not no_shortcuts,
        **chosen,
    )
    tasks: dict[str, TaskID] = {}
    with progress_bar() as bar:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        page = evaluation.evaluate(
            model,
            out,
            settings=settings.load(),
            manifest_path=manifest_path,
            options=options,
            progress=progress,
        )
    click.echo(page)
