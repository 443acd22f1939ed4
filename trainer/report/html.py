"""An evaluation as one HTML page that needs no network and no further files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from trainer import metrics
from trainer.data import SplitFilms
from trainer.evaluation import localisation, published
from trainer.evaluation.bootstrap import LEAST_PATIENTS
from trainer.evaluation.scored import Scored
from trainer.evaluation.subgroups import LEAST_FILMS
from trainer.report import plots
from trainer.report.gallery import pictures


def page(evaluation: Mapping[str, Any], scored: Scored, films: SplitFilms, *, gallery: int) -> str:
    """The page of one evaluation.

    Args:
        evaluation: the content of ``metrics.json``.
        scored: the measured split.
        films: its films.
        gallery: number of films that the page shows.
    """
    split = evaluation["data"]["split"]
    figures = evaluation["validation" if split == "val" else split]
    names = scored.schema.labels
    template = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "f": _number,
        "percent": lambda value: "–" if value is None else f"{100 * value:.1f} %",
        "span": _span,
        "spaced": lambda label: label.replace("_", " "),
    }
    counts = figures["co_occurrence"]
    # The column of a label without an operating point is NaN.
    truth, called = (np.array(counts[name], dtype=np.float64) for name in ("truth", "called"))
    having = np.maximum(1, np.diag(truth))[:, None]  # films that have the label of the row
    return environment.from_string(template).render(
        all=evaluation,
        figures=figures,
        split=split,
        schema=scored.schema,
        chosen=scored.chosen,
        curves=[_plots(scored, k, label) for k, label in enumerate(names)],
        forest=plots.intervals(
            names,
            [figures["labels"][label]["auroc"] for label in names],
            [figures["labels"][label]["auroc_interval"] for label in names],
            "AUROC, 95 % interval over patients",
        ),
        matrices={
            "truth": plots.matrix(truth / having, names, truth),
            "called": plots.matrix(called / having, names, called),
        },
        pictures=pictures(scored, films, gallery),
        sources=published.SOURCES,
        least_patients=LEAST_PATIENTS,
        least_films=LEAST_FILMS,
        share=localisation.SHARE,
        hit=localisation.HIT,
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _span(ends: Sequence[float] | None, digits: int = 3) -> str:
    return "–".join(f"{end:.{digits}f}" for end in ends or ())


def _plots(scored: Scored, k: int, label: str) -> dict[str, Any]:
    """The curves of one label; ``None`` where a class is absent."""
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
