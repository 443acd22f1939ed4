"""The training configuration: one typed TOML file, stored in every checkpoint."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hilum.errors import ConfigurationError
from hilum.preprocess import PreprocessSpec


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Section):
    """What is trained."""

    backbone: str
    weights: str = Field(description="`random`, `torchvision`, a path or s3://…; no default")
    label_schema: str


class LossConfig(_Section):
    """Focal loss by default; `bce` is the same with γ = 0 and no α."""

    kind: Literal["focal", "bce"] = "focal"
    gamma: float = Field(default=2.0, ge=0)
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="weight of the positive term; 1 − α of the negative"
    )
    auxiliary_weight: float = Field(default=0.4, ge=0, description="InceptionV3's auxiliary head")
    box_weight: float = Field(
        default=0.0, ge=0, description="of the boxes, where the data set has some; 0: not used"
    )


class Augmentation(_Section):
    """Within what patients and machines do. No flips: situs and laterality matter."""

    rotate_deg: float = Field(default=6.0, ge=0)
    scale: float = Field(default=0.1, ge=0, lt=1)
    shift: float = Field(default=0.05, ge=0, lt=1, description="share of the side")
    contrast: float = Field(default=0.2, ge=0, lt=1)
    brightness: float = Field(default=0.1, ge=0, lt=1)
    noise: float = Field(default=0.02, ge=0, lt=1, description="standard deviation, of full scale")


class Stage(_Section):
    """Epochs at one input size and one set of trained layers."""

    epochs: int = Field(ge=1)
    size: int = Field(ge=32, description="side of the input, pixels; at most preprocess.size")
    learning_rate: float = Field(default=1e-3, gt=0, description="of the head, at its peak")
    backbone_scale: float = Field(
        default=1.0, ge=0, description="learning rate of the backbone ÷ head; 0 freezes it"
    )


class OptimiserConfig(_Section):
    """AdamW under a cosine with linear warm-up, once a stage."""

    batch_size: int = Field(default=32, ge=2)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of a stage's steps")
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    patience: int | None = Field(
        default=None, ge=1, description="epochs of a stage without a better validation AUROC"
    )


class TrainConfig(_Section):
    """Everything that decides what comes out of a run."""

    seed: int = 0
    manifest: Path
    model: ModelConfig
    preprocess: PreprocessSpec
    loss: LossConfig = LossConfig()
    augmentation: Augmentation = Augmentation()
    optimiser: OptimiserConfig = OptimiserConfig()
    stages: tuple[Stage, ...] = Field(min_length=1)


def load(path: Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read and check ``path``; ``overrides`` replace top-level keys.

    Raises:
        ConfigurationError: the file is missing, not TOML, or a value is not allowed.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError:
        raise ConfigurationError(f"There is no configuration at {path}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None
    return parse({**values, **(overrides or {})}, str(path))


def parse(values: dict[str, Any], where: str) -> TrainConfig:
    """Check ``values``, read from ``where``.

    Raises:
        ConfigurationError: a value is missing or not allowed.
    """
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigurationError(
            f"{where}: {problems}.", next_step="See docs/training.md for every key."
        ) from None
    too_large = [stage.size for stage in config.stages if stage.size > config.preprocess.size]
    if too_large:
        raise ConfigurationError(
            f"{where}: a stage's size {too_large[0]} is above preprocess.size "
            f"{config.preprocess.size}.",
            next_step="See docs/training.md for every key.",
        )
    return config
