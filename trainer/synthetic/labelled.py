"""Makes one film with the wanted findings, labelled with those that are visible on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.manifest import Box
from trainer.synthetic import anatomy, film, findings
from trainer.synthetic.findings import Insert


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """A film and what is on it."""

    film: film.Film
    labels: frozenset[str]
    boxes: tuple[Box, ...]


def make(
    chest: anatomy.Anatomy,
    labels: Collection[str],
    rng: np.random.Generator,
    *,
    inserts: Mapping[str, Insert],
    side: int,
    base: film.Float32Array,
    device: film.Device | None = None,
) -> LabelledFilm:
    """A film of ``chest`` with ``labels``: ``Cardiomegaly``, or keys of ``inserts``.

    A finding that collimation cuts off is not labelled.

    Args:
        inserts: makers of the findings.
        side: pixels along the longer side of the film.
        base: line integrals ``[X, Z]`` of the chest and of everything before and behind it.
        device: the detector; ``None``: an average one.
    """
    # Every heart is scaled, so that scaling alone says nothing about disease.
    enlarged = "Cardiomegaly" in labels
    factor = rng.uniform(1.28, 1.55) if enlarged else rng.uniform(1.0, 1.08)
    change, silhouette = findings.heart(chest, factor, rng)
    integrals = base + change
    seen: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.floating]]] = {}
    if enlarged:
        seen["Cardiomegaly"] = silhouette.astype(np.float32)
    for label, insert in inserts.items():
        if label in labels:
            seen[label] = insert(chest, rng)
            integrals = integrals + seen[label]
    lungs = chest.lungs.any(axis=1).repeat(anatomy.COARSE, 0).repeat(anatomy.COARSE, 1)
    field = film.collimate(lungs, rng)
    exposed = film.expose(np.maximum(integrals, 0), field, rng, side=side, device=device)
    boxes = {label: film.box_of(where, exposed) for label, where in seen.items()}
    visible = {label: box for label, box in boxes.items() if box is not None}
    return LabelledFilm(
        film=exposed,
        labels=frozenset(visible),
        boxes=tuple(
            Box(label=label, x0=x0, y0=y0, x1=x1, y1=y1)
            for label, (x0, y0, x1, y1) in visible.items()
        ),
    )
