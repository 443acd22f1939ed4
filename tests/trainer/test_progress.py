"""What a training says while it runs."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from trainer.loop import Step
from trainer.progress import Bars


def step(batch: int, *, ends_epoch: bool = False) -> Step:
    auroc = 0.75 if ends_epoch else None
    return Step(
        epoch=1,
        epochs=3,
        batch=batch,
        batches=2,
        loss=0.5,
        validation_auroc=auroc,
        ends_epoch=ends_epoch,
    )


def test_a_line_an_epoch_where_there_is_no_terminal() -> None:
    log = io.StringIO()
    with Progress(console=Console(file=log)) as bar:
        shown = Bars(bar)
        for said in (step(1), step(2), step(2, ends_epoch=True)):
            shown.show_step(said)
    assert log.getvalue().strip() == "epoch 1/3, loss 0.5000, AUROC 0.750"


def test_a_bar_and_no_lines_on_a_terminal() -> None:
    log = io.StringIO()
    with Progress(console=Console(file=log, force_terminal=True, width=80)) as bar:
        shown = Bars(bar)
        for said in (step(1), step(2), step(2, ends_epoch=True)):
            shown.show_step(said)
        assert [task.description for task in bar.tasks] == ["epoch 1/3, loss 0.5000, AUROC 0.750"]
        assert bar.tasks[0].finished
