"""Progress bars for commands that take long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from trainer.loop import Step


def progress_bar() -> Progress:
    """A progress bar on stderr; silent if stderr is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


class TrainingProgress:
    """Shows training as two bars: one for preparing the films, one for the present epoch. Without
    a terminal, it writes one line for each epoch to stderr."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._preparing: TaskID | None = None
        self._epoch: TaskID | None = None

    def show_preparing(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` films are prepared."""
        if self._preparing is None:
            self._preparing = self._bar.add_task("prepare", total=total)
        self._bar.update(self._preparing, completed=done)

    def show_step(self, step: Step) -> None:
        """Show that a batch or an epoch is done."""
        if not self._bar.console.is_terminal:
            if step.ends_epoch:
                self._bar.console.print(_line(step), highlight=False)
            return
        if self._epoch is None:
            self._epoch = self._bar.add_task("", total=step.batches)
        self._bar.update(
            self._epoch, completed=step.batch, total=step.batches, description=_line(step)
        )


def _line(step: Step) -> str:
    auroc = "" if step.validation_auroc is None else f", AUROC {step.validation_auroc:.3f}"
    return f"epoch {step.epoch}/{step.epochs}, loss {step.loss:.4f}{auroc}"
