"""Computes all figures of one split for ``metrics.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trainer import metrics
from trainer.evaluation import localisation, published
from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.figures import figures
from trainer.evaluation.scored import Scored
from trainer.evaluation.shortcuts import view_figures
from trainer.evaluation.subgroups import subgroups
from trainer.manifest import Record

_LOCALISED = ("pointing_game", "pointing_centre", "iou", "iou_centre")


def assess(
    scored: Scored,
    bootstrap: Bootstrap | None = None,
    *,
    listed: Sequence[Record] | None = None,
) -> dict[str, Any]:
    """Every figure of ``scored`` that needs no further run of the model.

    Figures are given per label, macro over the findings (without the normal label) and micro. A
    figure that is not defined is null. The keys are stable: model cards and the report read them.

    ``listed`` is the split as the data-set table lists it, see :func:`published.beside`.
    """
    bootstrap = bootstrap or Bootstrap()
    found = figures(scored, bootstrap)
    where = localisation.of_labels(scored)
    for k, label in enumerate(scored.schema.labels):
        curve = metrics.reliability(scored.targets[:, k], scored.probability[:, k])
        found["labels"][label] |= where[label] | {"reliability": [asdict(part) for part in curve]}
    found["macro"] |= scored.macro(found["labels"], _LOCALISED)
    return {
        **found,
        "subgroups": subgroups(scored, bootstrap),
        "views": view_figures(scored),
        "co_occurrence": co_occurrence(scored),
        "published": published.beside(scored, listed),
    }


def co_occurrence(scored: Scored) -> dict[str, Any]:
    """How often labels occur together: in truth, and as called at the operating points.

    ``truth[i][j]`` counts films that have both i and j. ``called[i][j]`` counts films that have
    label i and on which label j is called: a confusion matrix of labels that may occur together.
    A film counts in no row or column of a label that is unknown for it. A column of ``called`` is
    null for a label without an operating point.
    """
    true = (scored.targets == 1).astype(np.int64)
    called = (scored.probability >= scored.thresholds).astype(np.int64)
    return {
        "labels": list(scored.schema.labels),
        "truth": (true.T @ true).tolist(),
        "called": [
            [None if no else n for n, no in zip(row, scored.undefined, strict=True)]
            for row in (true.T @ called).tolist()
        ],
    }
