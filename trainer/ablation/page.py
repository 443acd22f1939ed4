"""The page of an ablation: the paper's comparison as Markdown, with a figure beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, StrictUndefined

from hilum.files import write_atomically
from trainer.ablation import plan, stats
from trainer.ablation.plan import PAPER_AUROC_GAIN, PAPER_F1_GAIN, AblationConfig, BackboneCells
from trainer.ablation.run import Finished
from trainer.ablation.stats import SHOWN, Estimate, Gain, Group, Key
from trainer.errors import writing
from trainer.evaluation.bootstrap import Interval
from trainer.report import plots

_ARMS: Final = {"frozen": "frozen features", "fine_tuned": "fine-tuned"}
_MISSING: Final = "not finished"
_PAPER: Final = {"auroc": PAPER_AUROC_GAIN, "f1": PAPER_F1_GAIN}

Pair = tuple[Group, Group]
Row = Sequence[str]


def write(path: Path, config: AblationConfig, found: Sequence[Finished]) -> Path:
    """Write the page to ``path`` and its figure to ``path`` with ``.svg``; returns ``path``.

    Raises:
        OutputWriteError: the disk is full or refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    made = stats.groups(config, found)
    figure = path.with_suffix(".svg")
    drawn = plots.ablation(list(made.values()), config.baseline_loss, config.full_loss)
    ends = {
        backbone: stats.match_seeds(
            made.get((backbone.name, "frozen", config.baseline_loss)),
            made.get((backbone.name, "fine_tuned", config.full_loss)),
        )
        for backbone in config.backbones
    }
    environment = Environment(  # noqa: S701 -- Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = resources.files(__package__).joinpath("page.md").read_text("utf-8")
    text = environment.from_string(template).render(
        config=config,
        found=found,
        films=found[0].scored,
        figure=figure.name,
        arms=_ARMS,
        planned=sum(1 for _ in plan.cells(config)),
        titles=[title for title, _, _ in SHOWN.values()],
        finished=[backbone.name for backbone, pair in ends.items() if pair],
        unfinished=[backbone.name for backbone, pair in ends.items() if not pair],
        gains=list(_gains(config, ends)),
        steps=list(_steps(config, made)),
        cells=list(_cells(config, made)),
        labels=list(_labels([pair for pair in ends.values() if pair], found[0])),
    )
    with writing(path):
        write_atomically(figure, drawn.encode())
        write_atomically(path, text.encode())
    return path


def _gains(config: AblationConfig, ends: Mapping[BackboneCells, Pair | None]) -> Iterator[Row]:
    """The paper's comparison."""
    for backbone, pair in ends.items():
        if pair is None:
            yield backbone.name, _MISSING
            continue
        before, after = pair
        for name in ("auroc", "f1", "f1_micro"):
            paper = _PAPER.get(name) if backbone.name == "inception_v3" else None
            yield (
                backbone.name,
                SHOWN[name][0],
                _seeds(config, backbone, before.seeds),
                _value(before.estimate(name)),
                _value(after.estimate(name)),
                *_gain(stats.gain(before, after, name)),
                "" if paper is None else f"+{100 * paper:.0f} %",
            )


def _steps(config: AblationConfig, made: Mapping[Key, Group]) -> Iterator[Row]:
    """Each step by itself, in macro figures."""
    base, full = config.baseline_loss, config.full_loss
    for backbone in config.backbones:
        before, frozen_full, tuned_base, after = (
            made.get((backbone.name, arm, loss)) for arm in plan.ARMS for loss in (base, full)
        )
        for step, one, other in (
            (f"fine-tuning, with {base}", before, tuned_base),
            (f"fine-tuning, with {full}", frozen_full, after),
            (f"{full} instead of {base}, frozen", before, frozen_full),
            (f"{full} instead of {base}, fine-tuned", tuned_base, after),
        ):
            pair = stats.match_seeds(one, other)
            if pair is None:
                yield backbone.name, step, _MISSING
                continue
            seeds = _seeds(config, backbone, pair[0].seeds)
            names = ("auroc", "average_precision", "f1")
            gains = [_gain(stats.gain(*pair, name))[0] for name in names]
            yield backbone.name, step, seeds, *gains


def _cells(config: AblationConfig, made: Mapping[Key, Group]) -> Iterator[Row]:
    for backbone in config.backbones:
        for arm in plan.ARMS:
            for loss in config.losses:
                start = (backbone.name, _ARMS[arm], loss)
                group = made.get((backbone.name, arm, loss))
                if group is None:
                    yield *start, _MISSING
                    continue
                seeds = _seeds(config, backbone, group.seeds)
                figures = [_value(group.estimate(name)) for name in SHOWN]
                yield *start, seeds, *figures, f"{group.seconds / 60:.1f}"


def _labels(ends: Sequence[Pair], one: Finished) -> Iterator[Row]:
    """AUROC of every label, before and after; rare labels last."""
    positives = (one.scored.targets == 1).sum(axis=0)
    for k in np.argsort(-positives, kind="stable"):
        cells = []
        for pair in ends:
            old, new = (float(group.values[:, k, 0].mean()) for group in pair)
            cells.append("–" if math.isnan(old) else f"{old:.2f} → {new:.2f}")
        yield one.scored.schema.labels[k], str(int(positives[k])), *cells


def _seeds(config: AblationConfig, backbone: BackboneCells, found: Sequence[int]) -> str:
    """``found``, and which seeds of the backbone are missing."""
    missing = [seed for seed in backbone.seeds or config.seeds if seed not in found]
    text = ", ".join(str(seed) for seed in found)
    return f"{text} (missing: {', '.join(map(str, missing))})" if missing else text


def _value(estimate: Estimate) -> str:
    text = f"{estimate.value:.3f}{_span(estimate.interval, '.3f')}"
    if estimate.lowest == estimate.highest:
        return text
    return f"{text}; {estimate.lowest:.3f}–{estimate.highest:.3f}"


def _gain(gain: Gain) -> tuple[str, str]:
    absolute = f"{gain.absolute:+.3f}{_span(gain.absolute_interval, '+.3f')}"
    low_high = gain.relative_interval
    percent = None if low_high is None else (100 * low_high[0], 100 * low_high[1])
    return absolute, f"{100 * gain.relative:+.0f} %{_span(percent, '+.0f')}"


def _span(span: Interval | None, form: str) -> str:
    return "" if span is None else f" ({span[0]:{form}} … {span[1]:{form}})"
