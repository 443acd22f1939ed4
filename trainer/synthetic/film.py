"""Makes a film of line integrals: exposure, scatter, blur, noise, tone curve, collimation; and one
with the wanted findings, labelled with those that are visible on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from trainer.arrays import BoolArray, Float32Array, FloatArray
from trainer.manifest import Box
from trainer.synthetic import findings
from trainer.synthetic.anatomy import COARSE, VOXEL_MM, Anatomy
from trainer.synthetic.findings import Insert

BITS = 12


@dataclass(frozen=True, kw_only=True)
class Field:
    """The collimated part of the detector grid ``[X, Z]``, half-open, in voxels."""

    x0: int
    x1: int
    z0: int
    z1: int


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film for presentation: larger is brighter (MONOCHROME2)."""

    pixels: npt.NDArray[np.uint16]  # [H, W], 0 … 4095
    field: Field
    pixel_mm: float


@dataclass(frozen=True, kw_only=True)
class Device:
    """Properties of a detector and its processing, as ranges from which each film draws."""

    quanta: tuple[float, float] = (4e3, 6e4)  # in the darkest parts
    blur: tuple[float, float] = (0.3, 0.9)  # pixels, standard deviation
    gamma: tuple[float, float] = (0.75, 1.35)  # of the tone curve


@dataclass(frozen=True, kw_only=True)
class LabelledFilm:
    """A film and what is on it."""

    film: Film
    labels: frozenset[str]
    boxes: tuple[Box, ...]


def collimate(lungs: BoolArray, rng: np.random.Generator) -> Field:
    """Draw a field around the shadow of the ``lungs`` ``[X, Z]``, as a radiographer sets it."""
    x, z = np.nonzero(lungs)
    left, right, feet, head = rng.uniform((5, 5, 15, 8), (45, 45, 80, 45)) / VOXEL_MM
    return Field(
        x0=max(0, int(x.min() - left)),
        x1=min(lungs.shape[0], int(x.max() + right)),
        z0=max(0, int(z.min() - feet)),
        z1=min(lungs.shape[1], int(z.max() + head)),
    )


def expose(
    integrals: Float32Array,
    field: Field,
    rng: np.random.Generator,
    *,
    side: int,
    device: Device | None = None,
) -> Film:
    """A film of ``integrals`` ``[X, Z]`` within ``field``; its long side has ``side`` pixels.

    All properties are drawn for each film, with or without findings. The projection is parallel,
    from back to front (PA): the patient's right is on the left of the image, the head is up.
    """
    device = device or Device()
    inside = integrals[field.x0 : field.x1, field.z0 : field.z1]
    image = inside.T[::-1]  # rows from the head down, columns from the patient's right to left
    zoom = side / max(image.shape)
    image = ndimage.zoom(image, zoom, order=1, grid_mode=True, mode="nearest")
    primary = np.exp(-image)
    scatter = ndimage.gaussian_filter(primary, side * rng.uniform(0.04, 0.09))
    primary = primary + scatter * rng.uniform(0.15, 0.5)
    primary = ndimage.gaussian_filter(primary, rng.uniform(*device.blur))
    # Quanta in the darkest parts; the mediastinum receives a few per cent of them.
    quanta = np.exp(rng.uniform(*np.log(device.quanta))) / np.percentile(primary, 99)
    detected = rng.poisson(np.maximum(primary * quanta, 1e-6)).astype(np.float32)
    density = -np.log(np.maximum(detected, 1) / quanta)
    low, high = np.percentile(density, (rng.uniform(0.2, 2), rng.uniform(98.5, 99.9)))
    tone = np.clip((density - low) / (high - low), 0, 1) ** rng.uniform(*device.gamma)
    pixels = np.rint(tone * (2**BITS - 1)).astype(np.uint16)
    return Film(pixels=pixels, field=field, pixel_mm=VOXEL_MM / zoom)


def box_of(
    change: FloatArray, film: Film, *, share: float = 0.25
) -> tuple[float, float, float, float] | None:
    """The box x0, y0, x1, y1 on ``film`` of where ``|change|`` ``[X, Z]`` reaches ``share`` of
    its maximum; ``None`` if collimation cuts it off."""
    field = film.field
    seen = np.abs(change)[field.x0 : field.x1, field.z0 : field.z1]
    if seen.max() < 0.5 * np.abs(change).max():
        return None
    x, z = np.nonzero(seen >= share * seen.max())
    scale = VOXEL_MM / film.pixel_mm
    depth = field.z1 - field.z0
    box = (x.min(), depth - 1 - z.max(), x.max() + 1, depth - z.min())
    x0, y0, x1, y1 = (float(n * scale) for n in box)
    return x0, y0, x1, y1


def make(
    chest: Anatomy,
    labels: Collection[str],
    rng: np.random.Generator,
    *,
    inserts: Mapping[str, Insert],
    side: int,
    base: Float32Array,
    device: Device | None = None,
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
    lungs = chest.lungs.any(axis=1).repeat(COARSE, 0).repeat(COARSE, 1)
    field = collimate(lungs, rng)
    exposed = expose(np.maximum(integrals, 0), field, rng, side=side, device=device)
    boxes = {label: box_of(where, exposed) for label, where in seen.items()}
    visible = {label: box for label, box in boxes.items() if box is not None}
    return LabelledFilm(
        film=exposed,
        labels=frozenset(visible),
        boxes=tuple(
            Box(label=label, x0=x0, y0=y0, x1=x1, y1=y1)
            for label, (x0, y0, x1, y1) in visible.items()
        ),
    )
