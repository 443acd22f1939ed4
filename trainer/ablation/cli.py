"""``hilum train ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hilum import settings
from trainer.progress import TrainingProgress, progress_bar

if TYPE_CHECKING:
    from trainer.ablation.plan import Cell


@click.command()
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
    # torch takes seconds to import; `hilum train ablate --help` should not.
    from trainer.ablation import plan, run  # noqa: PLC0415
    from trainer.ablation.page import write  # noqa: PLC0415

    parsed = plan.load(config)
    if not report_only:
        with progress_bar() as bar:
            shown = TrainingProgress(bar)

            def begun(cell: Cell, number: int, count: int) -> None:
                click.echo(f"{number}/{count} {cell.name}", err=True)

            run.run(
                parsed,
                out,
                settings=settings.load(),
                begun=begun,
                report=shown.show_step,
                keep=keep_checkpoints,
            )
    found = run.read_finished(parsed, out)
    click.echo(write(page or out / "ablation.md", parsed, found))
