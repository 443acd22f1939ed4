"""An evaluation as one HTML page that needs no network and no further files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from trainer import metrics
from trainer.evaluation import localisation, published
from trainer.evaluation.bootstrap import LEAST_PATIENTS
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.subgroups import LEAST_FILMS
from trainer.report import gallery, plots

_TEMPLATE: Final = "report.html"
_DASH: Final = "–"


def page(evaluation: Evaluation) -> str:
    """The page of ``evaluation``."""
    split = evaluation.figures["data"]["split"]
    figures = evaluation.figures["validation" if split == "val" else split]
    schema = evaluation.model.schema
    labels = figures["labels"]
    names = list(schema.labels)
    template = _environment().from_string(
        resources.files(__package__).joinpath(_TEMPLATE).read_text("utf-8")
    )
    return template.render(
        evaluation=evaluation,
        all=evaluation.figures,
        figures=figures,
        split=split,
        schema=schema,
        normal=schema.normal,
        curves=[_plots(evaluation, k, label) for k, label in enumerate(names)],
        forest=plots.intervals(
            names,
            [labels[label]["auroc"] for label in names],
            [labels[label]["auroc_interval"] for label in names],
            "AUROC, 95 % interval over patients",
        ),
        matrices=_matrices(figures["co_occurrence"]),
        pictures=gallery.pictures(evaluation.scored, evaluation.films, evaluation.gallery),
        sources=published.SOURCES,
        least_patients=LEAST_PATIENTS,
        least_films=LEAST_FILMS,
        share=localisation.SHARE,
        hit=localisation.HIT,
    )


def _environment() -> Environment:
    found = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    found.filters |= {"f": _number, "span": _span, "spaced": _spaced, "percent": _percent}
    return found


def _number(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _span(value: list[float] | None, digits: int = 3) -> str:
    return "" if value is None else f"{value[0]:.{digits}f}–{value[1]:.{digits}f}"


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f} %"


def _spaced(label: str) -> str:
    return label.replace("_", " ")


def _plots(evaluation: Evaluation, k: int, label: str) -> dict[str, Any]:
    """The curves of one label; ``None`` where a class is absent."""
    scored = evaluation.scored
    target, score = scored.targets[:, k], scored.probability[:, k]
    threshold = None if scored.undefined[k] else scored.points[label].threshold
    both = metrics.auroc(target, score) is not None
    bins = metrics.reliability(target, score)
    return {
        "label": label,
        "positives": int((target == 1).sum()),
        "roc": plots.roc(target, score, threshold) if both else None,
        "precision_recall": plots.precision_recall(target, score, threshold) if both else None,
        "reliability": plots.reliability(bins) if bins else None,
    }


def _matrices(table: Mapping[str, Any]) -> dict[str, Markup]:
    """Both matrices, rows divided by the films that have the row's label."""
    names = table["labels"]
    # The column of a label without an operating point is NaN.
    truth, called = (np.array(table[name], dtype=np.float64) for name in ("truth", "called"))
    having = np.maximum(1, np.diag(truth))[:, None]
    return {
        "truth": plots.matrix(truth / having, names, truth),
        "called": plots.matrix(called / having, names, called),
    }
