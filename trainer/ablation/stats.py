"""What the cells of an ablation add up to: means over seeds, gains, intervals over patients.

Every cell is resampled with the same patients. Gains are therefore paired: a draw that is easy or
hard is so before and after.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from trainer.ablation.plan import ARMS, AblationConfig, Arm
from trainer.ablation.run import Finished
from trainer.arrays import FloatArray
from trainer.evaluation.bootstrap import Bootstrap, Interval, interval
from trainer.evaluation.figures import FIGURES, Statistic
from trainer.evaluation.ranking import whole

Key = tuple[str, Arm, str]  # backbone, arm, loss

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

    def of_seeds(self, name: str) -> FloatArray:
        """``name`` of :data:`SHOWN`, for each seed: ``[seeds]``."""
        _, row, figure = SHOWN[name]
        return self.values[:, row, FIGURES.index(figure)]

    def of_draws(self, name: str) -> FloatArray:
        """``name`` of :data:`SHOWN`, for each draw of patients, mean over seeds: ``[B]``."""
        _, row, figure = SHOWN[name]
        drawn: FloatArray = self.samples[:, :, row, FIGURES.index(figure)].mean(axis=0)
        return drawn

    def estimate(self, name: str) -> Estimate:
        """``name`` of :data:`SHOWN`."""
        values = self.of_seeds(name)
        return Estimate(
            value=float(values.mean()),
            interval=interval(self.of_draws(name)),
            lowest=float(values.min()),
            highest=float(values.max()),
        )

    def only(self, seeds: Sequence[int]) -> Group:
        """The group with ``seeds`` alone, all of which it has. ``seconds`` stays."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self, seeds=tuple(seeds), values=self.values[rows], samples=self.samples[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The gain from one group to another."""

    absolute: float
    absolute_interval: Interval | None
    relative: float
    relative_interval: Interval | None


def groups(config: AblationConfig, found: Sequence[Finished]) -> dict[Key, Group]:
    """The groups that have at least one finished cell, in the order of the configuration."""
    bootstrap = Bootstrap(replicates=config.replicates)
    members: dict[Key, list[Finished]] = defaultdict(list)
    for one in found:
        members[one.cell.backbone, one.cell.arm, one.cell.loss].append(one)
    made: dict[Key, Group] = {}
    backbones = [backbone.name for backbone in config.backbones]
    for key in itertools.product(backbones, ARMS, config.losses):
        if ones := members.get(key):
            backbone, arm, loss = key
            scored = [(one.scored, Statistic(one.scored)) for one in ones]
            made[key] = Group(
                backbone=backbone,
                arm=arm,
                loss=loss,
                seeds=tuple(one.cell.seed for one in ones),
                values=np.stack([statistic(whole(len(films)))[0] for films, statistic in scored]),
                samples=np.stack(
                    [bootstrap.samples(films.patients, statistic) for films, statistic in scored]
                ),
                seconds=float(np.mean([one.seconds for one in ones])),
            )
    return made


def match_seeds(before: Group | None, after: Group | None) -> tuple[Group, Group] | None:
    """Both groups over the seeds that both have; ``None`` if there is none.

    A stopped ablation has more seeds of one group than of the other. A mean over all seeds of each
    would show differences between seeds as a gain.
    """
    if before is None or after is None:
        return None
    both = [seed for seed in before.seeds if seed in after.seeds]
    return (before.only(both), after.only(both)) if both else None


def gain(before: Group, after: Group, name: str) -> Gain:
    """The gain in ``name`` of :data:`SHOWN`, absolute and relative to ``before``.

    Both groups must have the same seeds, see :func:`match_seeds`.
    """
    old, new = (float(group.of_seeds(name).mean()) for group in (before, after))
    drawn_old, drawn_new = before.of_draws(name), after.of_draws(name)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(drawn_old > 0, (drawn_new - drawn_old) / drawn_old, np.nan)
    return Gain(
        absolute=new - old,
        absolute_interval=interval(drawn_new - drawn_old),
        relative=(new - old) / old if old else float("nan"),
        relative_interval=interval(ratio),
    )
