"""Checkpoints and the state of a run: weights as safetensors, all else as JSON; no pickle.

A JSON file and the tensors that belong to it lie in one folder and are always of the same moment.
The tensors go into a new file named after their digest. Then the JSON file, which names that file,
is replaced. Before this step the old pair is valid, after it the new pair.

The state of a run is all that it needs to go on after a kill as if nothing had happened. It holds
no random numbers and no schedule: both follow from its position, see :mod:`trainer.randomness`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hilum.errors import HilumError
from hilum.files import write_atomically
from hilum.packages import labels
from hilum.packages.labels import LabelSchema
from trainer.backbones import Classifier, build
from trainer.config import TrainConfig, differences
from trainer.errors import CheckpointError, CheckpointWriteError, RunExistsError, writing

T = TypeVar("T")
RECORD = "checkpoint.json"
_STATE = "state/state.json"
_TENSORS = "weights"  # the JSON's key for the file of tensors


class CheckpointRecord(BaseModel):
    """What a checkpoint says about its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    config: TrainConfig
    manifest_digest: str
    start_digest: str | None  # sha256 of the file of pretrained weights; None: random
    code_revision: str
    epoch: int
    validation_auroc: float | None
    history: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model."""

    model: Classifier
    schema: LabelSchema
    record: CheckpointRecord


def save(folder: Path, state: Mapping[str, Tensor], record: CheckpointRecord) -> None:
    """Write a checkpoint into ``folder``, whole or not at all.

    Raises:
        CheckpointWriteError: the disk is full or refuses. The checkpoint before is unchanged.
    """
    write_snapshot(folder / RECORD, state, record.model_dump(mode="json"))


def load(folder: Path) -> Checkpoint:
    """The model of the checkpoint in ``folder``, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its configuration.
    """
    record, state = read_snapshot(folder / RECORD, CheckpointRecord.model_validate)
    schema = labels.schema(record.config.model.label_schema)
    model = build(record.config.model.backbone, len(schema.labels), initialise=False)
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(
            f"The weights in {folder} are not those of a {record.config.model.backbone} "
            f"with {len(schema.labels)} labels."
        ) from None
    return Checkpoint(model=model.eval(), schema=schema, record=record)


def code_revision() -> str:
    """The commit of this code, with `+` if the tree differs; `unknown` outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(  # noqa: S603 -- constant arguments
            command, cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


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


def save_state(out: Path, state: RunState, tensors: Mapping[str, Tensor]) -> None:
    """Write the state of the run in ``out``, whole or not at all.

    Raises:
        CheckpointWriteError: the disk is full or refuses. The state before is unchanged.
    """
    write_snapshot(out / _STATE, tensors, state.model_dump(mode="json"))


def find_state(
    out: Path, config: TrainConfig, *, resume: bool
) -> tuple[RunState | None, dict[str, Tensor]]:
    """State and tensors of the run in ``out``; ``None`` and nothing if no state was saved there.

    Raises:
        RunExistsError: there is a run and ``resume`` is false.
        CheckpointError: the run is damaged, or began with another configuration.
    """
    path = out / _STATE
    if not path.is_file():
        return None, {}
    if not resume:
        raise RunExistsError(f"{out} already holds a run.")
    state, tensors = read_snapshot(path, RunState.model_validate)
    changed = differences(state.config, config)
    if changed:
        raise CheckpointError(
            f"The run in {out} began with another configuration: {', '.join(changed)}.",
            next_step="Restore those values, or start in another folder.",
        )
    return state, tensors


def write_snapshot(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write ``values`` to ``path`` (``….json``) and ``tensors`` beside it, replacing the old pair.

    Raises:
        CheckpointWriteError: the disk is full or refuses. The old pair is unchanged.
    """
    data = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    file = path.with_name(f"{path.stem}-{digest[:16]}.safetensors")
    text = json.dumps({_TENSORS: {"file": file.name, "sha256": digest}, **values}, indent=2)
    with writing(path, CheckpointWriteError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
        write_atomically(path, text.encode())
        for old in path.parent.glob(f"{path.stem}-*.safetensors"):
            if old != file:
                old.unlink()


def read_snapshot(path: Path, parse: Callable[[dict[str, Any]], T]) -> tuple[T, dict[str, Tensor]]:
    """The values of ``path``, made by ``parse`` from the JSON, and the tensors.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    folder = path.parent
    try:
        values = json.loads(path.read_bytes())
        stored = values.pop(_TENSORS)
        if Path(stored["file"]).name != stored["file"]:
            raise ValueError(stored["file"])  # it leads out of the folder
        data = path.with_name(stored["file"]).read_bytes()
        if hashlib.sha256(data).hexdigest() == stored["sha256"]:
            return parse(values), load_tensors(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {Path(error.filename).name}.") from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from None
    except (HilumError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}).") from None
    raise CheckpointError(f"{folder} is damaged: the weights have another digest.")
