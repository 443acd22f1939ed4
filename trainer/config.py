"""The training configuration: one typed TOML file, stored in every checkpoint."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hilum.errors import ConfigurationError, HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages import labels

_SEE = "`hilum train keys` and docs/training.md explain every key."

LossKind = Literal["focal", "bce", "weighted_bce", "asymmetric"]
Balance = Literal["effective_numbers", "prevalence"]
Alpha = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bf16", "fp16"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Section):
    """What is trained."""

    backbone: str = Field(description="alexnet, resnet18, resnet50, resnet152 or inception_v3")
    weights: str = Field(
        description="where it starts: torchvision, a path, s3://…, or random, in so many words"
    )
    weights_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the weights' file; another file is refused",
    )
    label_schema: str = Field(description="for example chestxray14-v1 (hilum/packages/labels.py)")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="of the head; none: the architecture's own"
    )


class DataConfig(_Section):
    """How much of the data set may be unusable."""

    max_bad_fraction: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="images that may be missing, unreadable or there twice; more end the run",
    )


class LossConfig(_Section):
    """Focal loss (Lin et al. 2017) by default, and what to compare it with."""

    kind: LossKind = Field(
        default="focal",
        description="focal; bce; weighted_bce (alpha, no focusing); asymmetric (multi-label only)",
    )
    gamma: float = Field(default=2.0, ge=0, description="focusing of focal; 0 is cross-entropy")
    alpha: Alpha | dict[str, Alpha] | Balance | None = Field(
        default=None,
        description=(
            "weight of the positive term, 1 − alpha of the negative one: one number, one a label, "
            "`effective_numbers` or `prevalence`; none: both weigh 1"
        ),
    )
    beta: float = Field(
        default=0.9999, ge=0, lt=1, description="of the effective numbers (Cui et al. 2019)"
    )
    gamma_positive: float = Field(default=1.0, ge=0, description="of asymmetric")
    gamma_negative: float = Field(default=4.0, ge=0, description="of asymmetric")
    margin: float = Field(
        default=0.05, ge=0, lt=1, description="of asymmetric: negatives below it are left alone"
    )
    prior_bias: bool = Field(
        default=True, description="start the head's bias at each label's prevalence"
    )
    auxiliary_weight: float = Field(default=0.4, ge=0, description="of InceptionV3's second head")
    box_weight: float = Field(
        default=0.0, ge=0, description="of the boxes, where the data set has some; 0: not used"
    )


class Augmentation(_Section):
    """Within what patients and machines do. No flip by default: situs and laterality matter."""

    rotate_deg: float = Field(default=6.0, ge=0, description="at most, degrees, either way")
    scale: float = Field(default=0.1, ge=0, lt=1, description="at most, share")
    shift: float = Field(default=0.05, ge=0, lt=1, description="at most, share of the side")
    contrast: float = Field(default=0.2, ge=0, lt=1, description="at most, share")
    brightness: float = Field(default=0.1, ge=0, lt=1, description="at most, share of full scale")
    noise: float = Field(default=0.02, ge=0, lt=1, description="standard deviation, of full scale")
    horizontal_flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "probability. Teaches that left and right are the same: situs inversus, dextrocardia "
            "and the side of a finding are lost"
        ),
    )


class Stage(_Section):
    """Epochs at one input size and one set of trained layers."""

    epochs: int = Field(ge=1, description="at most; see optimiser.patience")
    size: int = Field(ge=32, description="side of the input, pixels; at most preprocess.size")
    learning_rate: float = Field(default=1e-3, gt=0, description="of the head, at its peak")
    backbone_scale: float = Field(
        default=1.0,
        ge=0,
        description="learning rate of the backbone ÷ head; 0 freezes it, batch statistics included",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="learning rate of a block of layers ÷ that of the next block towards the head",
    )
    batch_norm: Literal["train", "frozen"] = Field(
        default="train", description="frozen: pretrained statistics stay as they are"
    )


class OptimiserConfig(_Section):
    """AdamW under a cosine with linear warm-up, once a stage."""

    batch_size: int = Field(
        default=32, ge=2, description="images a step, over all processes and accumulated parts"
    )
    accumulate: int = Field(
        default=1, ge=1, description="parts a batch is worked through in, to save memory"
    )
    weight_decay: float = Field(
        default=0.02, ge=0, description="not of biases and normalisation layers"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of a stage's steps")
    clip_norm: float = Field(default=1.0, gt=0, description="of the gradient")
    ema_decay: float = Field(
        default=0.99, ge=0, lt=1, description="of the running average of the weights, a step"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better validation macro AUROC that end a stage",
    )


class ComputeConfig(_Section):
    """How it is computed."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda where there is a GPU"
    )
    precision: Precision = Field(
        default="float32", description="bf16 and fp16: mixed, the latter with loss scaling"
    )
    channels_last: bool = Field(default=True, description="the faster layout for convolutions")
    deterministic: bool = Field(
        default=True, description="on GPUs too, at some cost; CPUs always are"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="save the state of the run every so many steps, too"
    )
    checkpoint_seconds: float = Field(
        default=30.0,
        ge=0,
        description="save it after an epoch, unless it was saved so short a time ago",
    )


class TrackingConfig(_Section):
    """Where curves go. Has no influence on the weights."""

    tensorboard: bool = Field(default=True, description="event files in the run's folder")
    mlflow: str | None = Field(default=None, description="tracking URI; needs the package mlflow")
    mlflow_experiment: str = Field(default="hilum", description="name of the experiment")


class TrainConfig(_Section):
    """Everything that decides what comes out of a run."""

    seed: int = Field(default=0, ge=0, description="of everything drawn")
    manifest: Path = Field(description="the data set")
    model: ModelConfig
    preprocess: PreprocessSpec
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    augmentation: Augmentation = Augmentation()
    optimiser: OptimiserConfig = OptimiserConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        large = [stage.size for stage in self.stages if stage.size > self.preprocess.size]
        if large:
            raise ValueError(f"a stage's size {large[0]} is above preprocess.size")
        if self.stages[-1].size != self.preprocess.size:
            raise ValueError("the last stage runs at preprocess.size, the size that ships")
        if self.optimiser.batch_size < 2 * self.optimiser.accumulate:
            raise ValueError("optimiser.accumulate leaves less than two images a part")
        schema = labels.schema(self.model.label_schema)
        if self.loss.kind == "asymmetric" and schema.kind != "multi_label":
            raise ValueError("loss.kind asymmetric is for multi-label schemas")
        if isinstance(self.loss.alpha, dict) and set(self.loss.alpha) != set(schema.labels):
            raise ValueError(f"loss.alpha must name every label of {schema.id}, once")
        return self


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None
    return parse({**values, **(overrides or {})}, str(path))


def parse(values: dict[str, Any], where: str) -> TrainConfig:
    """Check ``values``, read from ``where``.

    Raises:
        ConfigurationError: a value is missing or not allowed.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}".removeprefix(": ")
            for item in error.errors()
        )
        raise ConfigurationError(f"{where}: {problems}.", next_step=_SEE) from None
    except HilumError as error:
        raise ConfigurationError(f"{where}: {error.detail}", next_step=_SEE) from None


def differences(one: TrainConfig, other: TrainConfig) -> list[str]:
    """The keys in which two configurations differ, of those that decide what comes out."""
    first, second = (
        _flat(config.model_dump(mode="json", exclude={"tracking"})) for config in (one, other)
    )
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = [(str(n), value) for n, value in enumerate(values)]
    else:
        return {prefix: values}
    out: dict[str, Any] = {}
    for key, value in items:
        out |= _flat(value, f"{prefix}.{key}".lstrip("."))
    return out
