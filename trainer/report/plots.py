"""Plots as SVG text for a page without further files, fonts or scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context, rc_params_from_file
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from trainer.arrays import FloatArray
from trainer.metrics import ReliabilityBin, known_mask

if TYPE_CHECKING:
    from trainer.ablation.stats import Group


_POINTS: Final = 200  # of a curve; more would not be visible
BLUE, ORANGE, GREY, GREEN = "#0b62a4", "#d95f02", "#8a8f98", "#1b7a4b"
_STYLE: Final = rc_params_from_file(
    str(resources.files(__package__).joinpath("report.mplstyle")), use_default_template=False
)


def roc(target: FloatArray, score: FloatArray, threshold: float | None) -> Markup:
    """The ROC curve of one label; a dot marks the operating point."""
    known = known_mask(target)
    truth, score = (target == 1)[known], score[known]
    fpr, tpr, _ = roc_curve(truth, score)
    with _curve("1 − specificity", "sensitivity") as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.plot(*_thin(fpr, tpr), color=BLUE, linewidth=1.5)
        if threshold is not None:
            called = score >= threshold
            _dot(axes, called[~truth].mean(), called[truth].mean())
    return svg(figure)


def precision_recall(target: FloatArray, score: FloatArray, threshold: float | None) -> Markup:
    """The precision-recall curve of one label; the dotted line is its prevalence."""
    known = known_mask(target)
    truth, score = (target == 1)[known], score[known]
    precision, recall, _ = precision_recall_curve(truth, score)
    with _curve("recall (sensitivity)", "precision (PPV)") as (figure, axes):
        axes.axhline(truth.mean(), color=GREY, linewidth=0.8, linestyle=":")
        x, y = _thin(recall[::-1], precision[::-1])
        axes.step(x, y, where="post", color=BLUE, linewidth=1.5)
        if threshold is not None and (called := score >= threshold).any():
            _dot(axes, called[truth].mean(), truth[called].mean())
    return svg(figure)


def reliability(bins: Sequence[ReliabilityBin]) -> Markup:
    """Mean probability against observed frequency; the size of a dot shows the number of films."""
    with _curve("mean probability", "share with the finding") as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        films = np.array([part.films for part in bins], dtype=float)
        size = 12 + 110 * np.sqrt(films / films.max())
        x = [part.probability for part in bins]
        y = [part.frequency for part in bins]
        axes.plot(x, y, color=BLUE, linewidth=0.8, alpha=0.5)
        axes.scatter(x, y, s=size, color=BLUE, alpha=0.75, linewidths=0)
    return svg(figure)


def matrix(values: FloatArray, labels: Sequence[str], counts: FloatArray) -> Markup:
    """Shares in [0, 1] as colour, counts as text, row by column; a dash for NaN (not defined)."""
    side = 0.46 * len(labels) + 1.6
    with _figure(side, side - 0.3) as (figure, axes):
        axes.grid(visible=False)
        # imshow would put a bitmap into the SVG.
        axes.pcolormesh(
            np.ma.masked_invalid(values),
            cmap="Blues",
            vmin=0,
            vmax=1,
            edgecolors="white",
            linewidth=0.5,
        )
        axes.set_aspect("equal")
        axes.invert_yaxis()
        places = np.arange(len(labels)) + 0.5
        names = [label.replace("_", " ") for label in labels]
        axes.set_xticks(places, names, rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        for (row, column), count in np.ndenumerate(counts):
            shade = "white" if values[row, column] > 0.6 else "#333333"
            text = f"{count / 1000:.0f}k" if count >= 10_000 else f"{count:.0f}"
            text = "–" if np.isnan(count) else text
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=shade
            )
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return svg(figure)


def intervals(
    names: Sequence[str],
    values: Sequence[float | None],
    spans: Sequence[Sequence[float] | None],
    title: str,
) -> Markup:
    """A dot with its interval for every name, top to bottom."""
    with _figure(5.6, 0.27 * len(names) + 0.7) as (figure, axes):
        for row, (value, span) in enumerate(zip(values, spans, strict=True)):
            if span is not None:
                axes.plot(span, [row, row], color=BLUE, linewidth=2, alpha=0.4)
            if value is not None:
                axes.plot([value], [row], "o", color=BLUE, markersize=4.5)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(title)
        low = min([0.5, *(span[0] for span in spans if span), *(v for v in values if v)])
        axes.set_xlim(max(0.0, low - 0.03), 1.01)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return svg(figure)


def ablation(made: Sequence[Group], baseline: str, full: str) -> Markup:
    """Macro AUROC and F1 of every group of an ablation, with intervals over patients."""
    backbones = list(dict.fromkeys(group.backbone for group in made))
    shades = {("frozen", baseline): GREY, ("frozen", full): ORANGE}
    shades |= {("fine_tuned", baseline): GREEN, ("fine_tuned", full): BLUE}
    with _figure(7.4, 0.95 * len(backbones) + 1.1, columns=2) as (figure, axes):
        for ax, name, title in zip(
            axes, ("auroc", "f1"), ("AUROC, macro", "F1, macro"), strict=True
        ):
            for group in made:
                arms = list(shades)
                key = (group.arm, group.loss)
                place = arms.index(key) if key in shades else len(arms)
                row = backbones.index(group.backbone) + 0.2 * (place - 1.5)
                found = group.estimate(name)
                colour = shades.get(key, "black")
                if found.interval is not None:
                    ax.plot(found.interval, [row, row], color=colour, linewidth=2, alpha=0.4)
                arm = "frozen" if group.arm == "frozen" else "fine-tuned"
                label = f"{arm}, {group.loss}"
                ax.plot([found.value], [row], "o", color=colour, markersize=4.5, label=label)
            ax.set_ylim(len(backbones) - 0.5, -0.5)
            ax.set_yticks(range(len(backbones)), backbones)
            ax.set_xlabel(title)
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0)
        axes[1].set_yticklabels([])
        handles, names = axes[0].get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        figure.legend(
            unique.values(), unique.keys(), loc="upper center", ncol=4, frameon=False, fontsize=8
        )
        figure.subplots_adjust(top=0.88)
    return svg(figure)


def svg(figure: Figure) -> Markup:
    """``figure`` as an ``<svg>`` element; matplotlib escapes its text."""
    out = StringIO()
    with rc_context(_STYLE):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    element = text[text.index("<svg") :]
    # Remove matplotlib's description of the file, which holds an address on the web.
    return Markup(re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL))  # noqa: S704


@contextmanager
def _figure(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure of ``width`` × ``height`` inches with its axes, without pyplot's global state."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained" if columns == 1 else None)
        yield figure, figure.subplots(1, columns)


@contextmanager
def _curve(x: str, y: str) -> Iterator[tuple[Figure, Any]]:
    """A small square figure with both axes from 0 to 1."""
    with _figure(2.6, 2.5) as (figure, axes):
        yield figure, axes
        ends, ticks = (-0.02, 1.02), [0, 0.5, 1]
        axes.set(
            xlim=ends, ylim=ends, xticks=ticks, yticks=ticks, xlabel=x, ylabel=y, aspect="equal"
        )


def _dot(axes: Any, x: float, y: float) -> None:
    """Mark the operating point."""
    axes.plot([x], [y], "o", color=ORANGE, markersize=5)


def _thin(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most :data:`_POINTS` points of a curve, with its ends."""
    if len(x) <= _POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).astype(int))
    return x[chosen], y[chosen]
