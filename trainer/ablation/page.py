"""The page of an ablation: the paper's comparison as Markdown, with a figure beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

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
    text = "\n".join(_page(config, found, made, figure.name))
    with writing(path):
        write_atomically(figure, drawn.encode())
        write_atomically(path, text.encode())
    return path


def _page(
    config: AblationConfig, found: Sequence[Finished], made: Mapping[Key, Group], figure: str
) -> Iterator[str]:
    base, full = config.baseline_loss, config.full_loss
    ends = {
        backbone: stats.match_seeds(
            made.get((backbone.name, "frozen", base)), made.get((backbone.name, "fine_tuned", full))
        )
        for backbone in config.backbones
    }
    yield from (f"# {config.title}", "")
    yield (
        f"Written by `hilum train ablate`. Before: frozen features, {base}. After: fine-tuned, "
        f"{full}. Every cell sees the same films for the same number of epochs from the same "
        "pretrained weights; thresholds for F1 are chosen on validation. In brackets: 95 % "
        f"intervals over patients (bootstrap, {config.replicates} draws, the same for all cells); "
        "then lowest and highest seed."
    )
    yield ""
    planned = sum(1 for _ in plan.cells(config))
    if len(found) < planned:
        yield (
            f"**{len(found)} of {planned} cells are finished.** A gain is over the seeds that both "
            "of its sides have finished; what is missing is marked."
        )
        yield ""
    if config.notes:
        yield from (config.notes.strip(), "")
    heads = "backbone | figure | seeds | before | after | gain, absolute | gain, relative | paper"
    yield from ("## Before and after", "", *_table(heads, _gains(config, ends)), "")
    yield from (f"![Macro AUROC and F1 of every cell]({figure})", "")
    heads = "backbone | step | seeds | AUROC, macro | AP, macro | F1, macro"
    yield from ("## What each brings", "", *_table(heads, _steps(config, made)), "")
    heads = " | ".join(title for title, _, _ in SHOWN.values())
    heads = f"backbone | features | loss | seeds | {heads} | minutes"
    yield from ("## Every cell", "", *_table(heads, _cells(config, made)), "")
    yield from ("## Per label", "", *_labels(ends, found[0]), "")
    yield from ("## Set-up", "", *_table(" | ", _setup(config, found)), "")


def _table(heads: str, rows: Iterable[Row]) -> Iterator[str]:
    """A Markdown table. Rows may be shorter than ``heads``, whose cells are split by ``|``."""
    columns = heads.count("|") + 1
    yield f"| {heads} |"
    yield "|---" * columns + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |" + " |" * (columns - len(row))


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


def _labels(ends: Mapping[BackboneCells, Pair | None], one: Finished) -> Iterator[str]:
    """AUROC of every label, before and after; rare labels last."""
    shown = {backbone.name: pair for backbone, pair in ends.items() if pair is not None}
    text = "AUROC before → after, mean over seeds; – where a class is absent from the test split."
    if missing := [backbone.name for backbone, pair in ends.items() if pair is None]:
        text += f" Not finished: {', '.join(missing)}."
    yield from (text, "")
    positives = (one.scored.targets == 1).sum(axis=0)
    rows = []
    for k in np.argsort(-positives, kind="stable"):
        cells = []
        for pair in shown.values():
            old, new = (float(group.values[:, k, 0].mean()) for group in pair)
            cells.append("–" if math.isnan(old) else f"{old:.2f} → {new:.2f}")
        rows.append((one.scored.schema.labels[k], str(int(positives[k])), *cells))
    yield from _table(" | ".join(("label", "films", *shown)), rows)


def _setup(config: AblationConfig, found: Sequence[Finished]) -> Iterator[Row]:
    scored = found[0].scored
    yield "test films, patients", f"{len(scored)}, {len(set(scored.patients))}"
    yield "labels", config.label_schema
    yield "epochs of every cell", str(sum(stage.epochs for stage in config.frozen))
    for arm in plan.ARMS:
        stages = (
            f"{stage.epochs} epochs at {stage.learning_rate:g}"
            + (f", backbone × {stage.backbone_scale:g}" if stage.backbone_scale else ", head only")
            for stage in config.stages(arm)
        )
        yield _ARMS[arm], "; ".join(stages)
    for name, loss in config.losses.items():
        yield f"loss `{name}`", ", ".join(f"{key} {value}" for key, value in loss.items())
    for b in config.backbones:
        seeds = f", seeds {', '.join(map(str, b.seeds))}" if b.seeds else ""
        yield b.name, f"{b.size} px, from `{b.weights}`{seeds}"
    if config.resplit is not None:
        r = config.resplit
        split = f"{100 * r.train:.0f}/{100 * r.val:.0f}/{100 * r.test:.0f} %"
        yield "split", f"by patient, stratified, {split} train/validation/test"
    yield "code", ", ".join(f"`{name}`" for name in Counter(one.revision for one in found))
    yield "time of all cells", f"{sum(one.seconds for one in found) / 3600:.1f} h"


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
