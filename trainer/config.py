"""The training configuration: one typed TOML file, stored in every checkpoint."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hilum.errors import ConfigurationError, HilumError
from hilum.errors.validation import problems
from hilum.imaging.spec import PreprocessSpec
from hilum.packages import labels

_SEE = "`hilum train keys` and docs/use/training.md explain every key."

LossKind = Literal["focal", "bce", "weighted_bce", "asymmetric"]
Balance = Literal["effective_numbers", "prevalence"]
Precision = Literal["float32", "bf16", "fp16"]
Alpha = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=32)]


class Section(BaseModel):
    """Part of a configuration file. The text below a key is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Section):
    """The model that is trained."""

    backbone: str
    """alexnet, resnet18, resnet50, resnet152 or inception_v3."""
    weights: str
    """Initial weights: `torchvision`, a path, s3://…, or `random`."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """sha256 of the file of weights. Another file is refused."""
    label_schema: str
    """Label schema, for example chestxray14-v1 (hilum/packages/labels.py)."""
    dropout: Share | None = None
    """Dropout of the head. Not set: the dropout of the architecture."""


class DataConfig(Section):
    """How much of the data set may be unusable."""

    max_bad_fraction: Fraction = 0.01
    """Largest share of films that may be missing, unreadable or listed twice. If there are more,
    the run ends with an error."""


class LossConfig(Section):
    """The loss: focal loss (Lin et al. 2017) by default, and others to compare it with."""

    kind: LossKind = "focal"
    """focal; bce; weighted_bce (alpha, no focusing); asymmetric (multi-label only)."""
    gamma: NonNegativeFloat = 2.0
    """Focusing of the focal loss. 0 gives the cross-entropy."""
    alpha: Alpha | dict[str, Alpha] | Balance | None = None
    """Weight of the positive term; the negative term has 1 − alpha. One number, one number for
    each label, `effective_numbers` or `prevalence`. Not set: both terms have weight 1."""
    beta: Share = 0.9999
    """β of the effective numbers (Cui et al. 2019)."""
    gamma_positive: NonNegativeFloat = 1.0
    """γ₊ of the asymmetric loss."""
    gamma_negative: NonNegativeFloat = 4.0
    """γ₋ of the asymmetric loss."""
    margin: Share = 0.05
    """Margin of the asymmetric loss: negatives with a probability below it are ignored."""
    prior_bias: bool = True
    """Start the bias of the head at the prevalence of each label."""
    auxiliary_weight: NonNegativeFloat = 0.4
    """Weight of the loss of InceptionV3's second head."""
    box_weight: NonNegativeFloat = 0.0
    """Weight of the loss on boxes, if the data set has boxes. 0: boxes are not used."""


class Augmentation(Section):
    """Changes that patients and machines cause, too. Films are not flipped by default, because
    situs and laterality matter."""

    rotate_deg: NonNegativeFloat = 6.0
    """Largest rotation in either direction, degrees."""
    scale: Share = 0.1
    """Largest change of size, as a share."""
    shift: Share = 0.05
    """Largest shift, as a share of the side."""
    contrast: Share = 0.2
    """Largest change of contrast, as a share."""
    brightness: Share = 0.1
    """Largest change of brightness, as a share of full scale."""
    noise: Share = 0.02
    """Standard deviation of the noise, as a share of full scale."""
    horizontal_flip: Fraction = 0.0
    """Probability of a flip. Flips teach that left and right are the same: the model then cannot
    recognise situs inversus, dextrocardia or the side of a finding."""


class Stage(Section):
    """Epochs at one input size with one set of trained layers."""

    epochs: PositiveInt
    """Largest number of epochs of the stage; see optimiser.patience."""
    size: Side
    """Side of the model input in this stage, pixels; at most preprocess.size."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the head."""
    backbone_scale: NonNegativeFloat = 1.0
    """Learning rate of the backbone ÷ learning rate of the head. 0 freezes the backbone with its
    batch statistics."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a block of layers ÷ learning rate of the next block towards the head."""
    batch_norm: Literal["train", "frozen"] = "train"
    """`frozen` keeps the batch statistics of the pretrained weights."""


class OptimiserConfig(Section):
    """AdamW, in each stage under a cosine with linear warm-up."""

    batch_size: Annotated[int, Field(ge=2)] = 32
    """Films in one step, over all processes and accumulated parts."""
    accumulate: PositiveInt = 1
    """Number of parts in which a batch is computed one after the other, to save memory."""
    weight_decay: NonNegativeFloat = 0.02
    """Weight decay. It does not apply to biases and normalisation layers."""
    warmup: Share = 0.1
    """Share of a stage's steps in which the learning rate rises."""
    clip_norm: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    ema_decay: Share = 0.99
    """Decay of the running average of the weights, per step."""
    patience: PositiveInt | None = None
    """A stage ends after this number of epochs without a better validation macro AUROC."""


class ComputeConfig(Section):
    """Where and how precisely the run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one."""
    precision: Precision = "float32"
    """`bf16` and `fp16` are mixed precision; `fp16` also scales the loss."""
    channels_last: bool = True
    """Use the memory layout that is faster for convolutions."""
    deterministic: bool = True
    """Use deterministic algorithms on GPUs too, which costs some speed. CPUs always use them."""
    checkpoint_steps: PositiveInt | None = None
    """Save the state of the run also within an epoch, each time after this number of steps."""
    checkpoint_seconds: NonNegativeFloat = 30.0
    """Save the state after an epoch, unless it was saved this number of seconds ago or less."""


class TrackingConfig(Section):
    """Where the curves of a run are written. This has no influence on the weights."""

    tensorboard: bool = True
    """Write TensorBoard event files into the folder of the run."""
    mlflow: str | None = None
    """Tracking URI of MLflow; needs the package mlflow."""
    mlflow_experiment: str = "hilum"
    """Name of the MLflow experiment."""


class TrainConfig(Section):
    """Everything that decides the result of a run."""

    seed: NonNegativeInt = 0
    """Seed of every random number."""
    manifest: Path
    """Path of the data-set table."""
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
    def _check_consistency(self) -> TrainConfig:
        large = [stage.size for stage in self.stages if stage.size > self.preprocess.size]
        if large:
            raise ValueError(f"the size {large[0]} of a stage is above preprocess.size")
        if self.stages[-1].size != self.preprocess.size:
            raise ValueError("the last stage must have the size preprocess.size")
        if self.optimiser.batch_size < 2 * self.optimiser.accumulate:
            raise ValueError("optimiser.accumulate leaves less than two films in each part")
        schema = labels.schema(self.model.label_schema)
        if self.loss.kind == "asymmetric" and schema.kind != "multi_label":
            raise ValueError("loss.kind asymmetric needs a multi-label schema")
        if isinstance(self.loss.alpha, dict) and set(self.loss.alpha) != set(schema.labels):
            raise ValueError(f"loss.alpha must name every label of {schema.id}, once")
        return self


def load(path: Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read and check ``path``; ``overrides`` replace top-level keys.

    Raises:
        ConfigurationError: the file is missing or not TOML, or a value is not allowed.
    """
    return parse({**read_toml(path), **(overrides or {})}, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of the configuration file ``path``.

    Raises:
        ConfigurationError: the file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError:
        raise ConfigurationError(f"There is no configuration at {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None


def parse(values: dict[str, Any], where: str) -> TrainConfig:
    """Check ``values``, which were read from ``where``.

    Raises:
        ConfigurationError: a value is missing or not allowed.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {problems(error)}.", next_step=_SEE) from None
    except HilumError as error:
        raise ConfigurationError(f"{where}: {error.detail}", next_step=_SEE) from None


class Key(NamedTuple):
    """One key of the configuration file."""

    name: str
    default: str  # as TOML; empty: the key is required
    meaning: str


def list_keys(model: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[Key]:
    """All keys, in the order of the file, read from the models."""
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # there is nothing to choose
        kinds = (field.annotation, *get_args(field.annotation))
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if sections:
            start = "[[stages]] " if name == "stages" else f"{prefix}{name}."
            yield from list_keys(sections[0], start)
        else:
            default = "" if field.is_required() else _as_toml(field.default)
            yield Key(prefix + name, default, " ".join((field.description or "").split()))


def _as_toml(value: Any) -> str:
    if value is None:
        return "none"
    return json.dumps(value)


def differences(one: TrainConfig, other: TrainConfig) -> list[str]:
    """The keys that decide the result of a run and differ between two configurations."""
    first, second = (
        _flatten(config.model_dump(mode="json", exclude={"tracking"})) for config in (one, other)
    )
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = [(str(n), value) for n, value in enumerate(values)]
    else:
        return {prefix: values}
    out: dict[str, Any] = {}
    for key, value in items:
        out |= _flatten(value, f"{prefix}.{key}".lstrip("."))
    return out
