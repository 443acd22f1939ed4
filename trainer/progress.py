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


class Bars:
    """A bar for each kind of work, the present epoch of a training among them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, what: str, done: int, total: int, text: str | None = None) -> None:
        """Show that ``done`` of ``total`` are finished, under ``text`` or else ``what``."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(
            self._tasks[what], completed=done, total=total, description=text or what
        )

    def show_step(self, step: Step) -> None:
        """Show a batch or an epoch that is done. Without a terminal, write a line each epoch."""
        auroc = "" if step.validation_auroc is None else f", AUROC {step.validation_auroc:.3f}"
        line = f"epoch {step.epoch}/{step.epochs}, loss {step.loss:.4f}{auroc}"
        if self._progress.console.is_terminal:
            self.show("epoch", step.batch, step.batches, line)
        elif step.ends_epoch:
            self._progress.console.print(line, highlight=False)
