"""Checkpoints: weights as safetensors, everything else as JSON beside them; no pickle."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hilum.packages import labels
from hilum.packages.labels import LabelSchema
from trainer import snapshot
from trainer.backbones import Classifier, build
from trainer.config import TrainConfig
from trainer.errors import CheckpointError

RECORD = "checkpoint.json"


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
    snapshot.write(folder / RECORD, state, record.model_dump(mode="json"))


def load(folder: Path) -> Checkpoint:
    """The model of the checkpoint in ``folder``, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its configuration.
    """
    record, state = snapshot.read(folder / RECORD, CheckpointRecord.model_validate)
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
