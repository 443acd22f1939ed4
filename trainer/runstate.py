"""All that a run needs to go on after a kill as if nothing had happened.

Random numbers need no room here: they depend on seed and position, see :mod:`trainer.randomness`;
nor does the schedule, which is a function of the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from trainer import snapshot
from trainer.config import TrainConfig, differences
from trainer.errors import CheckpointError, RunExistsError

FOLDER = "state"
_FILE = "state.json"


class RunState(BaseModel):
    """Where a run is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    config: TrainConfig
    manifest_digest: str
    start_digest: str | None
    stage: int = 0
    stage_epoch: int = 0  # finished in this stage
    batch: int = 0  # finished in this epoch
    loss_sum: float = 0.0  # over the images of this epoch so far
    images: int = 0
    best: float | None = None  # validation macro AUROC, in this stage
    kept: bool = False  # `best` has been written
    stale: int = 0  # epochs without a better one
    history: tuple[dict[str, Any], ...] = ()
    scale: dict[str, Any] = {}  # of fp16
    tracking: dict[str, str] = {}
    finished: bool = False

    @property
    def epoch(self) -> int:
        """Epochs finished, over all stages."""
        return len(self.history)

    @property
    def loss(self) -> float:
        """The mean of this epoch so far."""
        return self.loss_sum / max(1, self.images)

    def but(self, **changes: Any) -> RunState:
        """A copy with ``changes``."""
        return self.model_copy(update=changes)

    def after_batch(self, loss: float, images: int) -> RunState:
        """With one more batch of ``images`` images and mean ``loss``."""
        return self.but(
            batch=self.batch + 1,
            loss_sum=self.loss_sum + loss * images,
            images=self.images + images,
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run that was there."""

    state: RunState
    tensors: dict[str, Tensor]

    def check_data(self, digest: str) -> None:
        """Raise ``CheckpointError`` if the data-set table is not the run's, by its digest."""
        if digest != self.state.manifest_digest:
            raise CheckpointError(
                "The run in this folder began with another data-set table.",
                next_step="Restore the data-set table, or start in another folder.",
            )


def save(out: Path, state: RunState, tensors: Mapping[str, Tensor]) -> None:
    """Write the state of the run in ``out``, whole or not at all.

    Raises:
        CheckpointWriteError: the disk is full or refuses; the state before is untouched.
    """
    snapshot.write(out / FOLDER / _FILE, tensors, state.model_dump(mode="json"))


def find(out: Path, config: TrainConfig, *, resume: bool) -> Found | None:
    """The run in ``out``; ``None``: there is none, or it did not get as far as a state.

    Raises:
        RunExistsError: there is one and ``resume`` is false.
        CheckpointError: it is damaged, or began with another configuration.
    """
    path = out / FOLDER / _FILE
    if not path.is_file():
        return None
    if not resume:
        raise RunExistsError(f"{out} already holds a run.")
    values, tensors = snapshot.read(path)
    try:
        state = RunState.model_validate(values)
    except ValidationError:
        raise CheckpointError(f"{path.parent} is damaged (ValidationError).") from None
    changed = differences(state.config, config)
    if changed:
        raise CheckpointError(
            f"The run in {out} began with another configuration: {', '.join(changed)}.",
            next_step="Restore those values, or start in another folder.",
        )
    return Found(state=state, tensors=tensors)
