"""Everything that a run needs to go on after a kill as if nothing had happened.

Random numbers are not stored: they depend on seed and position, see :mod:`trainer.randomness`.
Neither is the schedule, which is a function of the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from trainer import snapshot
from trainer.config import TrainConfig, differences
from trainer.errors import CheckpointError, RunExistsError

FOLDER = "state"
_FILE = "state.json"


class RunState(BaseModel):
    """The position of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    config: TrainConfig
    manifest_digest: str
    start_digest: str | None
    stage: int = 0
    stage_epoch: int = 0  # finished in this stage
    batch: int = 0  # finished in this epoch
    loss_sum: float = 0.0  # over the films of this epoch so far
    images: int = 0
    best: float | None = None  # validation macro AUROC, in this stage
    kept: bool = False  # `best` has been written
    stale: int = 0  # epochs without a better one
    history: tuple[dict[str, Any], ...] = ()
    scale: dict[str, Any] = {}  # state of fp16's loss scaling
    tracking: dict[str, str] = {}
    finished: bool = False

    @property
    def epoch(self) -> int:
        """Epochs finished, over all stages."""
        return len(self.history)

    @property
    def step(self) -> int:
        """Batches finished, over all epochs: those in ``history`` and those of this epoch."""
        return sum(int(epoch["batches"]) for epoch in self.history) + self.batch

    @property
    def loss(self) -> float:
        """The mean loss of this epoch so far."""
        return self.loss_sum / max(1, self.images)

    def replace(self, **changes: Any) -> RunState:
        """A copy with ``changes``."""
        return self.model_copy(update=changes)

    def after_batch(self, loss: float, images: int) -> RunState:
        """The state after one more batch of ``images`` films and mean ``loss``."""
        return self.replace(
            batch=self.batch + 1,
            loss_sum=self.loss_sum + loss * images,
            images=self.images + images,
        )


def save(out: Path, state: RunState, tensors: Mapping[str, Tensor]) -> None:
    """Write the state of the run in ``out``, whole or not at all.

    Raises:
        CheckpointWriteError: the disk is full or refuses. The state before is unchanged.
    """
    snapshot.write(out / FOLDER / _FILE, tensors, state.model_dump(mode="json"))


def find(
    out: Path, config: TrainConfig, *, resume: bool
) -> tuple[RunState | None, dict[str, Tensor]]:
    """State and tensors of the run in ``out``; ``None`` and nothing if no state was saved there.

    Raises:
        RunExistsError: there is a run and ``resume`` is false.
        CheckpointError: the run is damaged, or began with another configuration.
    """
    path = out / FOLDER / _FILE
    if not path.is_file():
        return None, {}
    if not resume:
        raise RunExistsError(f"{out} already holds a run.")
    state, tensors = snapshot.read(path, RunState.model_validate)
    changed = differences(state.config, config)
    if changed:
        raise CheckpointError(
            f"The run in {out} began with another configuration: {', '.join(changed)}.",
            next_step="Restore those values, or start in another folder.",
        )
    return state, tensors
