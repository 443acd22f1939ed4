"""Pretrained weights from a file, an s3:// object or torchvision; never silently random."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torchvision import models

from hilum.errors import HilumError
from hilum.settings import Settings
from hilum.storage import open_store
from trainer.backbones import backbone
from trainer.config import ModelConfig
from trainer.errors import WeightsDigestError, WeightsMissingError

_MAX_BYTES: Final = 4 * 2**30
RANDOM: Final = "random"
TORCHVISION: Final = "torchvision"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to start from."""

    state: dict[str, Tensor]
    digest: str  # sha256 of the file


def load(config: ModelConfig, settings: Settings) -> Pretrained | None:
    """The weights that the configured backbone starts from; ``None`` for ``weights = "random"``.

    ``torchvision`` downloads its ImageNet weights into torch's own cache, once; a path or an
    s3:// object holds a state dict as torchvision publishes it, as a pickle or as safetensors.

    Raises:
        WeightsMissingError: the weights are missing, cannot be fetched, or are not a state dict.
        WeightsDigestError: the weights are not the file that ``weights_sha256`` names.
        UnknownBackboneError: hilum does not know the backbone.
    """
    if config.weights == RANDOM:
        return None
    source = config.weights
    data = _torchvision(config.backbone) if source == TORCHVISION else _read(source, settings)
    digest = hashlib.sha256(data).hexdigest()
    if config.weights_sha256 not in {None, digest}:
        raise WeightsDigestError(f"{source} has sha256 {digest}.")
    return Pretrained(state=parse(data, source), digest=digest)


def parse(data: bytes, source: str) -> dict[str, Tensor]:
    """The state dict in the content of a file, without the prefix ``module.`` that DDP adds.

    Raises:
        WeightsMissingError: ``data`` is not a state dict.
    """
    try:
        if data[8:9] == b"{":  # after eight bytes of length: safetensors, not a pickle or a zip
            found: Any = load_safetensors(data)
        else:
            found = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise anything
        raise WeightsMissingError(
            f"{source} is not a PyTorch state dict ({type(error).__name__})."
        ) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsMissingError(f"{source} is not a state dict.")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _torchvision(name: str) -> bytes:
    weights = models.get_weight(backbone(name).weights)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(weights.url).name
    if not path.is_file():
        try:
            # Downloads into a temporary file, whose digest is checked before it gets its name.
            folder.mkdir(parents=True, exist_ok=True)
            expected = path.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(weights.url, str(path), expected, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsMissingError(
                f"torchvision could not download its ImageNet weights for {name} "
                f"({type(error).__name__}).",
                next_step=f"Fetch {weights.url} elsewhere and give its path as `model.weights`, "
                f"or put the file into {folder}.",
            ) from None
    return _read_file(path)


def _read(source: str, settings: Settings) -> bytes:
    if "://" not in source:
        return _read_file(Path(source))
    try:
        return open_store(settings.s3, settings.limits).read(source, max_bytes=_MAX_BYTES)
    except HilumError as error:
        raise WeightsMissingError(f"The weights cannot be read: {error.detail}") from error


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsMissingError(
            f"There are no weights at {path} ({error.strerror or type(error).__name__})."
        ) from None
