"""Pretrained weights: from a file, an s3:// object or torchvision; never silently random."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torchvision import models

from hilum.errors import HilumError, WeightsMissingError
from hilum.settings import Settings
from hilum.storage import open_store
from trainer.backbones import backbone

_MAX_BYTES: Final = 4 * 2**30
RANDOM: Final = "random"
TORCHVISION: Final = "torchvision"


def load(source: str, name: str, settings: Settings) -> dict[str, Tensor] | None:
    """The state dict to start backbone ``name`` from; ``None`` for ``source = "random"``.

    Args:
        source: ``random``, ``torchvision`` (downloads ImageNet weights), a path, or an s3:// URI
            of a state dict as torchvision publishes it.
        name: the backbone.
        settings: for S3.

    Raises:
        WeightsMissingError: they are not there, cannot be had, or are no state dict.
    """
    if source == RANDOM:
        return None
    if source == TORCHVISION:
        return _torchvision(name)
    data = _read(source, settings)
    try:
        state = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling has no end of ways to fail
        raise WeightsMissingError(
            f"{source} is not a PyTorch state dict ({type(error).__name__})."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsMissingError(f"{source} holds something else than a state dict.")
    return state


def _torchvision(name: str) -> dict[str, Tensor]:
    weights = models.get_weight(backbone(name).weights)
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsMissingError(
            f"torchvision could not download the ImageNet weights ({type(error).__name__}).",
            next_step=f"Fetch {weights.url} elsewhere and give its path as `weights`.",
        ) from None
    return state


def _read(source: str, settings: Settings) -> bytes:
    if "://" in source:
        try:
            return open_store(settings.s3, settings.limits).read(source, max_bytes=_MAX_BYTES)
        except HilumError as error:
            raise WeightsMissingError(f"The weights cannot be read: {error.detail}") from error
    path = Path(source)
    if not path.is_file():
        raise WeightsMissingError(f"There are no weights at {path}.")
    return path.read_bytes()
