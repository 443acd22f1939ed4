"""The training configuration: one typed TOML file, stored in every checkpoint."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hilum.errors import ConfigurationError, HilumError
from hilum.errors.validation import problems
from hilum.imaging.spec import PreprocessSpec
from hilum.packages import labels

_SEE = "`hilum train keys` and docs/use/training.md explain every key."

LossKind = Literal["focal", "bce", "weighted_bce", "asymmetric"]
Balance = Literal["effective_numbers", "prevalence"]
Alpha = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bf16", "fp16"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Section):
    """What is trained."""

    backbone: str = Field(description="alexnet, resnet18, resnet50, resnet152 or inception_v3.")
    weights: str = Field(description="Initial weights: `torchvision`, a path, s3://…, or `random`.")
    weights_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="sha256 of the file of weights; another file is refused.",
    )
    label_schema: str = Field(
        description="Label schema, for example chestxray14-v1 (hilum/packages/labels.py)."
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout of the head. Not set: that of the architecture.",
    )


class DataConfig(_Section):
    """How much of the data set may be unusable."""

    max_bad_fraction: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description=(
            "Share of films that may be missing, unreadable or listed twice; more end the run."
        ),
    )


class LossConfig(_Section):
    """Focal loss (Lin et al. 2017) by default, and what to compare it with."""

    kind: LossKind = Field(
        default="focal",
        description=(
            "focal; bce; weighted_bce (alpha, no focusing); asymmetric (multi-label only)."
        ),
    )
    gamma: float = Field(
        default=2.0, ge=0, description="Focusing of the focal loss; 0 is cross-entropy."
    )
    alpha: Alpha | dict[str, Alpha] | Balance | None = Field(
        default=None,
        description=(
            "Weight of the positive term; the negative one has 1 − alpha. One number, one for "
            "each label, `effective_numbers` or `prevalence`. Not set: both weigh 1."
        ),
    )
    beta: float = Field(
        default=0.9999, ge=0, lt=1, description="β of the effective numbers (Cui et al. 2019)."
    )
    gamma_positive: float = Field(default=1.0, ge=0, description="γ₊ of the asymmetric loss.")
    gamma_negative: float = Field(default=4.0, ge=0, description="γ₋ of the asymmetric loss.")
    margin: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Margin of the asymmetric loss: negatives below it are ignored.",
    )
    prior_bias: bool = Field(
        default=True, description="Start the bias of the head at the prevalence of each label."
    )
    auxiliary_weight: float = Field(
        default=0.4, ge=0, description="Weight of the loss of InceptionV3's second head."
    )
    box_weight: float = Field(
        default=0.0,
        ge=0,
        description=(
            "Weight of the loss on boxes, if the data set has some; 0: boxes are not used."
        ),
    )


class Augmentation(_Section):
    """Within what patients and machines do. No flip by default: situs and laterality matter."""

    rotate_deg: float = Field(
        default=6.0, ge=0, description="Largest rotation in either direction, degrees."
    )
    scale: float = Field(default=0.1, ge=0, lt=1, description="Largest change of size, as a share.")
    shift: float = Field(
        default=0.05, ge=0, lt=1, description="Largest shift, as a share of the side."
    )
    contrast: float = Field(
        default=0.2, ge=0, lt=1, description="Largest change of contrast, as a share."
    )
    brightness: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Largest change of brightness, as a share of full scale.",
    )
    noise: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="Standard deviation of the noise, as a share of full scale.",
    )
    horizontal_flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Probability of a flip. Flips teach that left and right are the same: the model then "
            "cannot know situs inversus, dextrocardia or the side of a finding."
        ),
    )


class Stage(_Section):
    """Epochs at one input size and one set of trained layers."""

    epochs: int = Field(ge=1, description="Most epochs of the stage; see optimiser.patience.")
    size: int = Field(
        ge=32, description="Side of the model input in this stage, pixels; at most preprocess.size."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate of the head.")
    backbone_scale: float = Field(
        default=1.0,
        ge=0,
        description=(
            "Learning rate of the backbone ÷ head. 0 freezes it with its batch statistics."
        ),
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "Learning rate of a block of layers ÷ that of the next block towards the head."
        ),
    )
    batch_norm: Literal["train", "frozen"] = Field(
        default="train",
        description="`frozen` keeps the batch statistics of the pretrained weights.",
    )


class OptimiserConfig(_Section):
    """AdamW under a cosine with linear warm-up, once a stage."""

    batch_size: int = Field(
        default=32, ge=2, description="Films in one step, over all processes and accumulated parts."
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Parts in which a batch is computed one after the other, to save memory.",
    )
    weight_decay: float = Field(
        default=0.02,
        ge=0,
        description="Weight decay; not applied to biases and normalisation layers.",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of a stage's steps in which the learning rate rises.",
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Decay of the running average of the weights, each step.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="A stage ends after so many epochs without a better validation macro AUROC.",
    )


class ComputeConfig(_Section):
    """How it is computed."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`auto`: cuda if there is a GPU."
    )
    precision: Precision = Field(
        default="float32",
        description="`bf16` and `fp16` are mixed precision, the latter with loss scaling.",
    )
    channels_last: bool = Field(
        default=True, description="Use the memory layout that is faster for convolutions."
    )
    deterministic: bool = Field(
        default=True,
        description="Use deterministic algorithms on GPUs, too, at some cost; CPUs always do.",
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="Also save the state of the run after every so many steps."
    )
    checkpoint_seconds: float = Field(
        default=30.0,
        ge=0,
        description=(
            "Save the state after an epoch, unless it was saved less than so many seconds ago."
        ),
    )


class TrackingConfig(_Section):
    """Where curves go. Has no influence on the weights."""

    tensorboard: bool = Field(
        default=True, description="Write TensorBoard event files into the folder of the run."
    )
    mlflow: str | None = Field(
        default=None, description="Tracking URI of MLflow; needs the package mlflow."
    )
    mlflow_experiment: str = Field(default="hilum", description="Name of the MLflow experiment.")


class TrainConfig(_Section):
    """Everything that decides what comes out of a run."""

    seed: int = Field(default=0, ge=0, description="Seed of every random number.")
    manifest: Path = Field(description="Path of the data-set table.")
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
        raise ConfigurationError(f"{where}: {problems(error)}.", next_step=_SEE) from None
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
