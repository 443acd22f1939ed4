"""An ablation: every backbone × {frozen features, fine-tuned} × losses × seeds, on equal budgets.

One TOML file says what is compared; from it every cell's training configuration follows. Nothing
but what is being compared differs between cells: the films, their order for a seed, the number of
epochs and every other setting are the same.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hilum.errors import ConfigurationError
from hilum.errors.validation import problems
from trainer import config as training
from trainer.config import TrainConfig

Arm = Literal["frozen", "fine_tuned"]
ARMS: Final[tuple[Arm, ...]] = ("frozen", "fine_tuned")
# What the paper (arXiv 2501.14279) reports for InceptionV3, read as relative gains.
PAPER_AUROC_GAIN, PAPER_F1_GAIN = 0.28, 0.15


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneCells(_Section):
    """One backbone of the comparison."""

    name: str
    weights: str = Field(description="as `model.weights` of hilum train")
    size: int = Field(ge=32, description="side of the input, pixels")
    seeds: tuple[int, ...] | None = Field(default=None, description="instead of the common ones")


class ArmStage(_Section):
    """A stage of an arm; at the backbone's size."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    backbone_scale: float = Field(ge=0, description="0 freezes the features")


class Shares(_Section):
    """A split of the manifest's patients that replaces its own, stratified by label."""

    train: float = Field(gt=0, lt=1)
    val: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must sum to one")
        return self


class AblationConfig(_Section):
    """What is compared."""

    title: str = "Ablation"
    notes: str = Field(default="", description="a paragraph for the report: what was special")
    manifest: Path
    label_schema: str
    resplit: Shares | None = None
    seeds: tuple[int, ...] = Field(min_length=1)
    replicates: int = Field(default=1000, ge=100, description="of the bootstrap over patients")
    backbones: tuple[BackboneCells, ...] = Field(min_length=1)
    losses: dict[str, dict[str, Any]] = Field(description="`[loss]` of hilum train, by name")
    baseline_loss: str = "bce"
    full_loss: str = "focal"
    frozen: tuple[ArmStage, ...] = Field(min_length=1)
    fine_tuned: tuple[ArmStage, ...] = Field(min_length=1)
    train: dict[str, Any] = Field(
        default_factory=dict, description="the rest of hilum train's configuration"
    )

    @model_validator(mode="after")
    def _equal_budgets(self) -> AblationConfig:
        epochs = {arm: sum(stage.epochs for stage in self.stages(arm)) for arm in ARMS}
        if len(set(epochs.values())) != 1:
            raise ValueError(f"budgets differ: {epochs} epochs")
        if any(stage.backbone_scale for stage in self.frozen):
            raise ValueError("frozen: backbone_scale must be 0 throughout")
        if not any(stage.backbone_scale for stage in self.fine_tuned):
            raise ValueError("fine_tuned: no stage trains the backbone")
        if missing := {self.baseline_loss, self.full_loss} - set(self.losses):
            raise ValueError(f"losses lacks {', '.join(sorted(missing))}")
        names = [backbone.name for backbone in self.backbones]
        if len(set(names)) != len(names):
            raise ValueError("a backbone is named twice")
        decided = {"seed", "manifest", "model", "loss", "stages"} & set(self.train)
        if decided:
            raise ValueError(f"[train] must not set {', '.join(sorted(decided))}: the cells do")
        if self.train.get("optimiser", {}).get("patience") is not None:
            raise ValueError("[train] optimiser.patience would make the budgets differ")
        return self

    def stages(self, arm: Arm) -> tuple[ArmStage, ...]:
        """Of ``arm``."""
        return self.frozen if arm == "frozen" else self.fine_tuned


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the comparison."""

    backbone: str
    arm: Arm
    loss: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.backbone}-{self.arm}-{self.loss}-seed{self.seed}"


def load(path: Path) -> AblationConfig:
    """Read and check ``path``.

    Raises:
        ConfigurationError: the file is missing, not TOML, or a value is not allowed, in a cell
            too.
    """
    try:
        with path.open("rb") as file:
            config = AblationConfig.model_validate(tomllib.load(file))
    except OSError:
        raise ConfigurationError(f"There is no configuration at {path}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from None
    except ValidationError as error:
        raise ConfigurationError(
            f"{path}: {problems(error, lambda parts: '.'.join(parts) or 'ablation')}.",
            next_step="See docs/use/evaluation.md, Ablation.",
        ) from None
    for cell in cells(config):
        training_of(config, cell, config.manifest)
    return config


def cells(config: AblationConfig) -> Iterator[Cell]:
    """Every cell, in an order in which an ablation that is stopped says most: seed by seed, and of
    a seed the comparison of before and after of every backbone first."""
    seeds = {seed for b in config.backbones for seed in b.seeds or config.seeds}
    ends = {("frozen", config.baseline_loss), ("fine_tuned", config.full_loss)}
    for seed in sorted(seeds):
        there = [b.name for b in config.backbones if seed in (b.seeds or config.seeds)]
        for is_end in (True, False):
            for backbone in there:
                for arm in ARMS:
                    for loss in config.losses:
                        if ((arm, loss) in ends) == is_end:
                            yield Cell(backbone=backbone, arm=arm, loss=loss, seed=seed)


def training_of(config: AblationConfig, cell: Cell, manifest: Path) -> TrainConfig:
    """The training configuration of ``cell`` on ``manifest``.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    values = {**_decided(config, cell), "manifest": manifest}
    return training.parse(values, f"cell {cell.name}")


def identity(config: AblationConfig, cell: Cell, manifest_digest: str) -> str:
    """What a finished cell is recognised by: what was asked for, and on which data."""
    text = json.dumps([_decided(config, cell), manifest_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _decided(config: AblationConfig, cell: Cell) -> dict[str, Any]:
    """Every setting of ``cell`` but the manifest."""
    backbone = next(b for b in config.backbones if b.name == cell.backbone)
    return {
        **config.train,
        "seed": cell.seed,
        "model": {
            "backbone": backbone.name,
            "weights": backbone.weights,
            "label_schema": config.label_schema,
        },
        "preprocess": {**config.train.get("preprocess", {}), "size": backbone.size},
        "loss": config.losses[cell.loss],
        "stages": [
            {**stage.model_dump(), "size": backbone.size} for stage in config.stages(cell.arm)
        ],
    }
