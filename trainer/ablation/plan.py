"""An ablation: every backbone × {frozen features, fine-tuned} × losses × seeds, on equal budgets.

One TOML file says what is compared; the training configuration of every cell follows from it.
Cells differ only in what is compared: the films, their order for a seed, the number of epochs and
every other setting are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hilum.errors import ConfigurationError
from hilum.errors.validation import problems
from trainer import config as training
from trainer.config import Alpha, Section, Side, TrainConfig

Arm = Literal["frozen", "fine_tuned"]
ARMS: Final[tuple[Arm, ...]] = ("frozen", "fine_tuned")
# What the paper (arXiv 2501.14279) reports for InceptionV3, read as relative gains.
PAPER_AUROC_GAIN, PAPER_F1_GAIN = 0.28, 0.15


class BackboneCells(Section):
    """One backbone of the comparison."""

    name: str
    weights: str
    """As `model.weights` of `hilum train`."""
    size: Side
    """Side of the model input, pixels."""
    seeds: tuple[int, ...] | None = None
    """Replaces the seeds of all backbones."""


class ArmStage(Section):
    """A stage of an arm, at the backbone's size."""

    epochs: PositiveInt
    learning_rate: PositiveFloat
    backbone_scale: NonNegativeFloat
    """0 freezes the features."""


class Shares(Section):
    """A new split of the data-set table's patients, stratified by label."""

    train: Alpha
    val: Alpha
    test: Alpha
    seed: int = 0

    @model_validator(mode="after")
    def _check_sum(self) -> Shares:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must sum to one")
        return self


class AblationConfig(Section):
    """What is compared."""

    title: str = "Ablation"
    notes: str = ""
    """A paragraph for the report on what was special."""
    manifest: Path
    """Path of the data-set table."""
    label_schema: str
    resplit: Shares | None = None
    seeds: tuple[int, ...] = Field(min_length=1)
    replicates: Annotated[int, Field(ge=100)] = 1000
    """Draws of the bootstrap over patients."""
    backbones: tuple[BackboneCells, ...] = Field(min_length=1)
    losses: dict[str, dict[str, Any]]
    """By name: `[loss]` of `hilum train`."""
    baseline_loss: str = "bce"
    full_loss: str = "focal"
    frozen: tuple[ArmStage, ...] = Field(min_length=1)
    fine_tuned: tuple[ArmStage, ...] = Field(min_length=1)
    train: dict[str, Any] = Field(default_factory=dict)
    """The rest of the configuration of `hilum train`."""

    @model_validator(mode="after")
    def _check_budgets(self) -> AblationConfig:
        epochs = {arm: sum(stage.epochs for stage in self.stages(arm)) for arm in ARMS}
        if len(set(epochs.values())) != 1:
            raise ValueError(f"budgets differ: {epochs} epochs")
        if any(stage.backbone_scale for stage in self.frozen):
            raise ValueError("frozen: backbone_scale must be 0 in every stage")
        if not any(stage.backbone_scale for stage in self.fine_tuned):
            raise ValueError("fine_tuned: no stage trains the backbone")
        if missing := {self.baseline_loss, self.full_loss} - set(self.losses):
            raise ValueError(f"losses must also have {', '.join(sorted(missing))}")
        names = [backbone.name for backbone in self.backbones]
        if len(set(names)) != len(names):
            raise ValueError("backbones must have different names")
        decided = {"seed", "manifest", "model", "loss", "stages"} & set(self.train)
        if decided:
            raise ValueError(f"[train] must not set {', '.join(sorted(decided))}: each cell does")
        if self.train.get("optimiser", {}).get("patience") is not None:
            raise ValueError("[train] optimiser.patience would make the budgets differ")
        return self

    def stages(self, arm: Arm) -> tuple[ArmStage, ...]:
        """The stages of ``arm``."""
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
        """The name of its folder."""
        return f"{self.backbone}-{self.arm}-{self.loss}-seed{self.seed}"


def load(path: Path) -> AblationConfig:
    """Read and check ``path``.

    Raises:
        ConfigurationError: the file is missing or not TOML, or a value is not allowed, also in the
            configuration of a cell.
    """
    values = training.read_toml(path)
    try:
        config = AblationConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(
            f"{path}: {problems(error, lambda parts: '.'.join(parts) or 'ablation')}.",
            next_step="See docs/use/evaluation.md, Ablation.",
        ) from None
    for cell in cells(config):
        training_of(config, cell, config.manifest)
    return config


def cells(config: AblationConfig) -> Iterator[Cell]:
    """Every cell, in the order in which a stopped ablation says most: seed by seed, and for each
    seed first the cells that compare before and after of every backbone."""
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
    values = {**_settings(config, cell), "manifest": manifest}
    return training.parse(values, f"cell {cell.name}")


def identity(config: AblationConfig, cell: Cell, manifest_digest: str) -> str:
    """A digest of the settings of ``cell`` and of its data set, to recognise a finished cell."""
    text = json.dumps([_settings(config, cell), manifest_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(config: AblationConfig, cell: Cell) -> dict[str, Any]:
    """Every setting of ``cell`` but the data-set table."""
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
