"""The page of an ablation: the paper's comparison as Markdown, with a figure beside it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hilum.files import write_atomically
from trainer.ablation import plan, stats
from trainer.ablation.plan import PAPER_AUROC_GAIN, PAPER_F1_GAIN, AblationConfig, BackboneCells
from trainer.ablation.run import Finished
from trainer.ablation.stats import SHOWN, Estimate, Gain, Group
from trainer.evaluation.bootstrap import Interval
from trainer.evaluation.scored import Scored
from trainer.outputs import writing
from trainer.report import plots

_ARMS: Final = {"frozen": "frozen features", "fine_tuned": "fine-tuned"}
_MISSING: Final = "not finished"
_PAPER: Final = {"auroc": PAPER_AUROC_GAIN, "f1": PAPER_F1_GAIN}


def write(path: Path, config: AblationConfig, found: Sequence[Finished]) -> Path:
    """Write the page to ``path`` and its figure to ``path`` with ``.svg``; returns ``path``.

    Raises:
        OutputWriteError: the disk is full or refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    made = stats.groups(config, found)
    figure = path.with_suffix(".svg")
    drawn = plots.ablation(made, config.baseline_loss, config.full_loss)
    text = "\n".join(_page(config, found, made, figure.name))
    with writing(path):
        write_atomically(figure, drawn.encode())
        write_atomically(path, text.encode())
    return path


def _page(
    config: AblationConfig, found: Sequence[Finished], made: Sequence[Group], figure: str
) -> list[str]:
    planned = sum(1 for _ in plan.cells(config))
    scored = found[0].scored
    lines = [f"# {config.title}", ""]
    lines += [
        "Written by `hilum train ablate`. Before: frozen features, "
        f"{config.baseline_loss}. After: fine-tuned, {config.full_loss}. Every cell sees the same "
        "films for the same number of epochs from the same pretrained weights; thresholds for F1 "
        "are chosen on validation. In brackets: 95 % intervals over patients (bootstrap, "
        f"{config.replicates} draws, the same for all cells); then lowest and highest seed.",
        "",
    ]
    if len(found) < planned:
        lines += [
            f"**{len(found)} of {planned} cells are finished.** A gain is over the seeds that both "
            "of its sides have finished; what is missing is marked.",
            "",
        ]
    if config.notes:
        lines += [config.notes.strip(), ""]
    lines += ["## Before and after", "", *_gains(config, made), ""]
    lines += [f"![Macro AUROC and F1 of every cell]({figure})", ""]
    lines += ["## What each brings", "", *_parts(config, made), ""]
    lines += ["## Every cell", "", *_cells(config, made), ""]
    lines += ["## Per label", "", *_labels(config, made, scored), ""]
    lines += ["## Set-up", "", *_setup(config, found), ""]
    return lines


def _gains(config: AblationConfig, made: Sequence[Group]) -> list[str]:
    """The paper's comparison."""
    heads = "backbone | figure | seeds | before | after | gain, absolute | gain, relative | paper"
    rows = [f"| {heads} |", "|---" * 8 + "|"]
    for backbone in config.backbones:
        pair = _ends(config, made, backbone.name)
        if pair is None:
            rows.append(f"| {backbone.name} | {_MISSING} |" + " |" * 6)
            continue
        before, after = pair
        for name in ("auroc", "f1", "f1_micro"):
            gain = stats.gain(before, after, name)
            paper = _PAPER.get(name) if backbone.name == "inception_v3" else None
            cells = [
                backbone.name,
                SHOWN[name][0],
                _seeds(config, backbone, before.seeds),
                _value(before.estimate(name)),
                _value(after.estimate(name)),
                *_gain(gain),
                "" if paper is None else f"+{100 * paper:.0f} %",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _parts(config: AblationConfig, made: Sequence[Group]) -> list[str]:
    """Each step by itself, in macro AUROC and F1."""
    base, full = config.baseline_loss, config.full_loss
    steps = (
        (f"fine-tuning, with {base}", ("frozen", base), ("fine_tuned", base)),
        (f"fine-tuning, with {full}", ("frozen", full), ("fine_tuned", full)),
        (f"{full} instead of {base}, frozen", ("frozen", base), ("frozen", full)),
        (f"{full} instead of {base}, fine-tuned", ("fine_tuned", base), ("fine_tuned", full)),
    )
    rows = ["| backbone | step | seeds | AUROC, macro | AP, macro | F1, macro |", "|---" * 6 + "|"]
    for backbone in config.backbones:
        for step, (arm, loss), (to_arm, to_loss) in steps:
            before = stats.find(made, backbone.name, arm, loss)  # type: ignore[arg-type]
            after = stats.find(made, backbone.name, to_arm, to_loss)  # type: ignore[arg-type]
            pair = stats.shared(before, after)
            if pair is None:
                rows.append(f"| {backbone.name} | {step} | {_MISSING} |" + " |" * 3)
                continue
            cells = [
                _gain(stats.gain(*pair, name))[0] for name in ("auroc", "average_precision", "f1")
            ]
            seeds = _seeds(config, backbone, pair[0].seeds)
            rows.append(f"| {backbone.name} | {step} | {seeds} | {' | '.join(cells)} |")
    return rows


def _ends(config: AblationConfig, made: Sequence[Group], name: str) -> tuple[Group, Group] | None:
    """Before and after of a backbone, over the seeds that both have finished."""
    return stats.shared(
        stats.find(made, name, "frozen", config.baseline_loss),
        stats.find(made, name, "fine_tuned", config.full_loss),
    )


def _seeds(config: AblationConfig, backbone: BackboneCells, found: Sequence[int]) -> str:
    """``found``, and which of the backbone's are missing."""
    missing = [seed for seed in backbone.seeds or config.seeds if seed not in found]
    text = ", ".join(str(seed) for seed in found)
    return f"{text} (missing: {', '.join(map(str, missing))})" if missing else text


def _cells(config: AblationConfig, made: Sequence[Group]) -> list[str]:
    heads = " | ".join(title for title, _, _ in SHOWN.values())
    rows = [f"| backbone | features | loss | seeds | {heads} | minutes |"]
    rows.append("|---|---|---|---|" + "---|" * (len(SHOWN) + 1))
    for backbone, arm, loss in itertools.product(config.backbones, plan.ARMS, config.losses):
        start = f"| {backbone.name} | {_ARMS[arm]} | {loss} |"
        group = stats.find(made, backbone.name, arm, loss)
        if group is None:
            rows.append(f"{start} {_MISSING} |" + " |" * (len(SHOWN) + 1))
            continue
        figures = [_value(group.estimate(name)) for name in SHOWN]
        seeds = _seeds(config, backbone, group.seeds)
        rows.append(f"{start} {seeds} | {' | '.join(figures)} | {group.seconds / 60:.1f} |")
    return rows


def _labels(config: AblationConfig, made: Sequence[Group], scored: Scored) -> list[str]:
    """AUROC of every label, before and after, mean over seeds; rare ones last."""
    pairs = {b.name: _ends(config, made, b.name) for b in config.backbones}
    shown = {name: pair for name, pair in pairs.items() if pair is not None}
    positives = (scored.targets == 1).sum(axis=0)
    text = "AUROC before → after, mean over seeds; – where a class is absent from the test split."
    if missing := [name for name in pairs if name not in shown]:
        text += f" Not finished: {', '.join(missing)}."
    rows = [text]
    rows += ["", f"| label | films | {' | '.join(shown)} |", "|---|---|" + "---|" * len(shown)]
    for k in np.argsort(-positives, kind="stable"):
        cells = []
        for pair in shown.values():
            old, new = (float(group.values[:, k, 0].mean()) for group in pair)
            cells.append("–" if math.isnan(old) else f"{old:.2f} → {new:.2f}")
        label = scored.schema.labels[k]
        rows.append(f"| {label} | {int(positives[k])} | {' | '.join(cells)} |")
    return rows


def _setup(config: AblationConfig, found: Sequence[Finished]) -> list[str]:
    scored = found[0].scored
    epochs = sum(stage.epochs for stage in config.frozen)
    stages = {
        arm: "; ".join(
            f"{stage.epochs} epochs at {stage.learning_rate:g}"
            + (f", backbone × {stage.backbone_scale:g}" if stage.backbone_scale else ", head only")
            for stage in config.stages(arm)
        )
        for arm in plan.ARMS
    }
    rows = [
        "| | |",
        "|---|---|",
        f"| test films, patients | {len(scored)}, {len(set(scored.patients))} |",
        f"| labels | {config.label_schema} |",
        f"| epochs of every cell | {epochs} |",
    ]
    rows += [f"| {_ARMS[arm]} | {stages[arm]} |" for arm in plan.ARMS]
    rows += [
        f"| loss `{name}` | {', '.join(f'{key} {value}' for key, value in loss.items())} |"
        for name, loss in config.losses.items()
    ]
    rows += [
        f"| {b.name} | {b.size} px, from `{b.weights}`"
        + (f", seeds {', '.join(map(str, b.seeds))}" if b.seeds else "")
        + " |"
        for b in config.backbones
    ]
    if config.resplit is not None:
        r = config.resplit
        split = f"{100 * r.train:.0f}/{100 * r.val:.0f}/{100 * r.test:.0f} %"
        rows.append(f"| split | by patient, stratified, {split} train/validation/test |")
    revisions = Counter(one.revision for one in found)
    rows.append(f"| code | {', '.join(f'`{name}`' for name in revisions)} |")
    hours = sum(one.seconds for one in found) / 3600
    rows.append(f"| time of all cells | {hours:.1f} h |")
    return rows


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
