"""Checkpoints: weights as safetensors, everything else as JSON beside them; no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hilum import labels
from hilum.errors import CheckpointError
from hilum.files import write_atomically
from hilum.labels import LabelSchema
from trainer.backbones import Classifier, build
from trainer.config import TrainConfig

WEIGHTS = "model.safetensors"
RECORD = "checkpoint.json"


class CheckpointRecord(BaseModel):
    """What is known about the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    config: TrainConfig
    manifest_digest: str
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


def save(folder: Path, state: dict[str, Tensor], record: CheckpointRecord) -> None:
    """Write a checkpoint into ``folder``; the record goes last and vouches for the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / RECORD, record.model_dump_json(indent=2).encode())


def load(folder: Path) -> Checkpoint:
    """The model of the checkpoint in ``folder``, in evaluation mode.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its configuration.
    """
    try:
        record = CheckpointRecord.model_validate_json((folder / RECORD).read_bytes())
        state = load_tensors((folder / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {Path(error.filename).name}.") from None
    except (ValidationError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}).") from None
    schema = labels.schema(record.config.model.label_schema)
    model = build(record.config.model.backbone, len(schema.labels))
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(
            f"The weights in {folder} are not those of a {record.config.model.backbone} "
            f"with {len(schema.labels)} labels."
        ) from None
    return Checkpoint(model=model.eval(), schema=schema, record=record)


def average(state: dict[str, Tensor], latest: dict[str, Tensor], decay: float) -> None:
    """Move the running average ``state`` towards ``latest``, in place."""
    for name, value in latest.items():
        if value.dtype.is_floating_point:
            state[name].lerp_(value.detach(), 1 - decay)
        else:
            state[name].copy_(value)


def clone(model: Classifier) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: torch.clone(value.detach()) for name, value in model.state_dict().items()}
