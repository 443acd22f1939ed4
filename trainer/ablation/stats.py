"""What the cells of an ablation add up to: means over seeds, gains, intervals over patients.

Every cell is resampled with the same patients, so that gains are paired: what makes a draw easy or
hard makes it so before and after alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.ablation.plan import ARMS, AblationConfig, Arm
from trainer.ablation.run import Finished
from trainer.evaluation.bootstrap import Bootstrap, Interval, interval
from trainer.evaluation.figures import FIGURES, Statistic
from trainer.evaluation.ranking import whole

FloatArray = npt.NDArray[np.floating]

_MACRO, _MICRO = -2, -1  # rows of Statistic
SHOWN: Final = {
    "auroc": ("AUROC, macro", _MACRO, "auroc"),
    "average_precision": ("AP, macro", _MACRO, "average_precision"),
    "f1": ("F1, macro", _MACRO, "f1"),
    "f1_micro": ("F1, micro", _MICRO, "f1"),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval over patients, and its range over seeds."""

    value: float
    interval: Interval | None
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """All finished seeds of one backbone, arm and loss."""

    backbone: str
    arm: Arm
    loss: str
    seeds: tuple[int, ...]
    values: FloatArray  # [seeds, K + 2, F], see Statistic
    samples: FloatArray  # [seeds, B, K + 2, F]
    seconds: float  # of a cell, mean

    def estimate(self, name: str) -> Estimate:
        """``name`` of :data:`SHOWN`."""
        _, row, figure = SHOWN[name]
        column = FIGURES.index(figure)
        values = self.values[:, row, column]
        return Estimate(
            value=float(values.mean()),
            interval=interval(self.samples[:, :, row, column].mean(axis=0)),
            lowest=float(values.min()),
            highest=float(values.max()),
        )

    def only(self, seeds: Sequence[int]) -> Group:
        """With ``seeds`` alone, all of which it has; ``seconds`` stay those of all."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self, seeds=tuple(seeds), values=self.values[rows], samples=self.samples[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """From one group to another, over the seeds that both have."""

    absolute: float
    absolute_interval: Interval | None
    relative: float
    relative_interval: Interval | None


def groups(config: AblationConfig, found: Sequence[Finished]) -> list[Group]:
    """The groups that have at least one finished cell, in the order of the configuration."""
    bootstrap = Bootstrap(replicates=config.replicates)
    samples: dict[str, FloatArray] = {}
    values: dict[str, FloatArray] = {}
    for one in found:
        statistic = Statistic(one.scored)
        values[one.cell.name] = statistic(whole(len(one.scored)))[0]
        samples[one.cell.name] = bootstrap.samples(one.scored.patients, statistic)
    made = []
    for backbone, arm, loss in _combinations(config):
        members = [
            one
            for one in found
            if (one.cell.backbone, one.cell.arm, one.cell.loss) == (backbone, arm, loss)
        ]
        if members:
            names = [one.cell.name for one in members]
            made.append(
                Group(
                    backbone=backbone,
                    arm=arm,
                    loss=loss,
                    seeds=tuple(one.cell.seed for one in members),
                    values=np.stack([values[name] for name in names]),
                    samples=np.stack([samples[name] for name in names]),
                    seconds=float(np.mean([one.seconds for one in members])),
                )
            )
    return made


def shared(before: Group | None, after: Group | None) -> tuple[Group, Group] | None:
    """Both over the seeds that both have; ``None`` if there is none.

    A stopped ablation has more seeds of one than of the other: a mean over all of each would take
    what differs between seeds for a gain.
    """
    if before is None or after is None:
        return None
    both = [seed for seed in before.seeds if seed in after.seeds]
    return (before.only(both), after.only(both)) if both else None


def gain(before: Group, after: Group, name: str) -> Gain:
    """The gain in ``name`` of :data:`SHOWN`, absolute and relative to ``before``, over the seeds
    that both have.

    Raises:
        ValueError: they have none in common, see :func:`shared`.
    """
    pair = shared(before, after)
    if pair is None:
        raise ValueError("no seed in common")
    before, after = pair
    _, row, figure = SHOWN[name]
    column = FIGURES.index(figure)
    old, new = (float(group.values[:, row, column].mean()) for group in (before, after))
    drawn_old, drawn_new = (g.samples[:, :, row, column].mean(axis=0) for g in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(drawn_old > 0, (drawn_new - drawn_old) / drawn_old, np.nan)
    return Gain(
        absolute=new - old,
        absolute_interval=interval(drawn_new - drawn_old),
        relative=(new - old) / old if old else float("nan"),
        relative_interval=interval(ratio),
    )


def find(made: Sequence[Group], backbone: str, arm: Arm, loss: str) -> Group | None:
    """That group, if it has a finished cell."""
    for group in made:
        if (group.backbone, group.arm, group.loss) == (backbone, arm, loss):
            return group
    return None


def _combinations(config: AblationConfig) -> Iterator[tuple[str, Arm, str]]:
    for backbone in config.backbones:
        for arm in ARMS:
            for loss in config.losses:
                yield backbone.name, arm, loss
