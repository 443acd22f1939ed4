"""Measures whether a model looks at the chest or at what accompanies disease.

Two well-known ways to be right for the wrong reason (Zech et al., PLoS Medicine 2018; DeGrave et
al., Nature Machine Intelligence 2021) are marks in the corners of the film, and the view, since
severely ill patients are filmed lying down (AP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.imaging.transform import Placement
from trainer import metrics
from trainer.arrays import BoolArray, FloatArray, UInt8Array
from trainer.evaluation.scored import Scored

Mask = Callable[[UInt8Array, Placement], UInt8Array]

CORNER: Final = 0.2  # of each side of the film: four corners are 16 % of it
_VIEWS: Final = ("PA", "AP")


def without_corners(image: UInt8Array, place: Placement) -> UInt8Array:
    """Mask the four corners of the film in ``image`` ``[1, S, S]`` with black."""
    return image * ~corners(place)


def only_corners(image: UInt8Array, place: Placement) -> UInt8Array:
    """Mask everything but the four corners of the film in ``image`` ``[1, S, S]`` with black."""
    return image * corners(place)


def corners(place: Placement) -> BoolArray:
    """Where the corners of the film are in the model input, bool ``[S, S]``."""
    width = max(1, round((place.x1 - place.x0) * CORNER))
    height = max(1, round((place.y1 - place.y0) * CORNER))
    mask = np.zeros((place.size, place.size), dtype=np.bool_)
    for rows in (slice(place.y0, place.y0 + height), slice(place.y1 - height, place.y1)):
        mask[rows, place.x0 : place.x0 + width] = True
        mask[rows, place.x1 - width : place.x1] = True
    return mask


def corner_figures(scored: Scored, masked: FloatArray, alone: FloatArray) -> dict[str, Any]:
    """AUROC with the corners masked, and with the corners alone.

    A model that reads the chest loses little by the first and is close to 0.5 with the second.
    ``masked`` and ``alone`` are probabilities ``[N, K]``, calibrated as those of ``scored``.
    """
    seen = {"whole": scored.probability, "corners_masked": masked, "corners_only": alone}
    labels = {
        label: {
            name: metrics.auroc(scored.targets[:, k], score[:, k]) for name, score in seen.items()
        }
        for k, label in enumerate(scored.schema.labels)
    }
    return {"corner": CORNER, "macro": scored.macro(labels, seen), "labels": labels}


def view_figures(scored: Scored) -> dict[str, Any] | None:
    """AUROC over all films, within each view, over pairs of the same view, and of the view alone.

    ``matched`` is the share of pairs (one film with the finding and one without, both of one view)
    that the model orders correctly, so that the view cannot help. ``view_only`` is the AUROC of a
    model that knows the view alone. ``None`` unless there are films of both PA and AP.
    """
    views = np.array([record.view for record in scored.records], dtype=np.str_)
    if not {"PA", "AP"} <= set(views.tolist()):
        return None
    labels = {}
    for k, label in enumerate(scored.schema.labels):
        target, score = scored.targets[:, k], scored.probability[:, k]
        within = {
            view: metrics.auroc(target[views == view], score[views == view]) for view in _VIEWS
        }
        frontal = np.isin(views, _VIEWS)
        labels[label] = {
            "pooled": metrics.auroc(target[frontal], score[frontal]),
            **within,
            "matched": _matched(target, within, views),
            "view_only": metrics.auroc(target[frontal], (views[frontal] == "AP").astype(float)),
        }
    names = ("pooled", *_VIEWS, "matched", "view_only")
    return {"macro": scored.macro(labels, names), "labels": labels}


def _matched(
    target: FloatArray, within: dict[str, float | None], views: npt.NDArray[np.str_]
) -> float | None:
    """Mean of the AUROC within each view, weighted by the number of pairs."""
    ill, well = (target == 1), (target == 0)
    pairs = [int(ill[views == view].sum()) * int(well[views == view].sum()) for view in within]
    if not any(pairs):
        return None
    areas = within.values()
    return sum((area or 0.0) * n for area, n in zip(areas, pairs, strict=True)) / sum(pairs)
