"""The further findings of ChestX-ray14, made as those of :mod:`trainer.synthetic.findings`.

Each follows what a radiologist looks for (Hansell et al., "Fleischner Society: glossary of terms
for thoracic imaging", Radiology 2008), as far as one CT and a 3.5 mm grid allow.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import expit

from trainer.arrays import Float32Array
from trainer.synthetic import findings
from trainer.synthetic.anatomy import (
    HEART,
    LOBES,
    LOWER_LEFT,
    LUNG_LEFT,
    LUNG_RIGHT,
    Anatomy,
)
from trainer.synthetic.findings import (
    COARSE_MM,
    TISSUE,
    Insert,
    Part,
    distance,
    one_lung,
    project,
    wall_distance,
)


def atelectasis(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Lung without air: one to three plates at a base, or a wedge with its tip at the hilum."""
    lung, outward = one_lung(chest, rng)
    part = Part.of(chest, lung)
    x, y, z = np.nonzero(part.mask)
    grid = part.grid
    fill = np.zeros(part.mask.shape)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            height = z.min() + rng.uniform(0.12, 0.45) * np.ptp(z)
            centre = (rng.uniform(x.min(), x.max()), np.median(y), height)
            tilt = np.tan(np.deg2rad(rng.normal(0, 18)))
            off = grid[2] - height - tilt * (grid[0] - centre[0])
            half = rng.uniform(3, 6) / COARSE_MM
            reach = rng.uniform(25, 55) / COARSE_MM
            away = np.hypot(grid[0] - centre[0], (grid[1] - centre[1]) / 2)
            fill = np.maximum(fill, np.exp(-((off / half) ** 2)) * expit(2 * (reach - away)))
    else:
        tip = (x.min() if outward > 0 else x.max(), np.median(y), np.quantile(z, 0.55))
        along = np.abs(grid[0] - tip[0]) * COARSE_MM
        down = (tip[2] - grid[2]) * COARSE_MM
        slope = rng.uniform(0.55, 1.1)
        width = rng.uniform(14, 30)
        wedge = expit((width - np.abs(along - slope * down)) / 3) * expit(down / 6)
        fill = wedge * np.ones(part.mask.shape)
    return part.solid(fill * rng.uniform(0.75, 1.0))


def infiltration(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Ill-defined, mottled patches of denser lung that still holds air, often on both sides."""
    part = Part.of(chest, chest.lungs)
    places = np.argwhere(part.mask)
    fill = np.zeros(part.mask.shape)
    for _ in range(int(rng.integers(1, 5))):
        centre = places[rng.integers(len(places))]
        radii = rng.uniform(22, 48, 3) / COARSE_MM
        fill = np.maximum(fill, np.exp(-1.2 * part.distance(centre, radii)))
    mottle = np.clip(0.7 + 0.7 * part.noise(4.5, rng), 0, 2)
    return part.solid(np.clip(fill * mottle * rng.uniform(0.22, 0.45), 0, 1))


def pneumonia(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Most of a lobe, filled up to its fissure, with air in its bronchi."""
    lobe = LOBES[int(rng.integers(len(LOBES)))]
    part = Part.of(chest, chest.organs == lobe)
    places = np.argwhere(part.mask)
    centre = places[rng.integers(len(places))]
    radii = np.maximum(np.ptp(places, axis=0) * rng.uniform(0.35, 0.6), 4)
    fill = expit(5 * (1 - part.distance(centre, radii)) + 0.8 * part.noise(8, rng))
    bronchi = np.clip(1.6 * part.noise(3.5, rng) - 1.4, 0, 1)
    return part.solid(fill * (1 - 0.6 * bronchi) * rng.uniform(0.6, 0.95))


def edema(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Haze around both hila that fades outwards, and short septal lines at the bases."""
    part = Part.of(chest, chest.lungs)
    x, y, z = np.nonzero(part.mask)
    grid = part.grid
    middle = (np.quantile(x, 0.5), np.median(y), np.quantile(z, rng.uniform(0.4, 0.5)))
    spread = rng.uniform(38, 62) / COARSE_MM
    fill = np.zeros(part.mask.shape)
    for organ in (LUNG_LEFT, LUNG_RIGHT):
        lung = np.isin(chest.organs[part.near], organ)
        inner = np.nonzero(lung)[0]
        hilum = inner.min() if inner.mean() > middle[0] else inner.max()
        distance = ((grid[0] - hilum) / spread) ** 2 + ((grid[2] - middle[2]) / spread) ** 2
        bat = np.exp(-distance) * rng.uniform(0.85, 1.15)
        low = np.clip(1 - (grid[2] - z.min()) / (0.35 * np.ptp(z)), 0, 1)
        lines = (np.sin(grid[2] * 2 * np.pi / (10 / COARSE_MM)) > 0.6) * low
        outer = chest.lung_depth[part.near] < 18
        fill += np.where(lung, bat + 0.35 * lines * outer, 0)
    fill = fill * np.clip(1 + 0.25 * part.noise(6, rng), 0, 2) * rng.uniform(0.25, 0.45)
    return part.solid(np.clip(fill, 0, 1))


def emphysema(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Destroyed lung: darker, with fewer vessels, more so in the apices; bullae with thin walls."""
    part = Part.of(chest, chest.lungs)
    mask, tissue, up = part.mask, chest.coarse[part.near], part.up
    lost = rng.uniform(0.3, 0.5) * (0.5 + 0.5 * up) * np.ones(mask.shape)
    vessels = tissue > np.quantile(tissue[mask], 0.8)
    lost = np.where(vessels, np.minimum(1.4 * lost, 0.8), lost)
    change = np.where(mask, -lost * tissue, 0)
    apical = np.argwhere(mask & (up > 0.55))
    for _ in range(int(rng.integers(1, 5))):
        centre = apical[rng.integers(len(apical))]
        radius = rng.uniform(12, 30) / COARSE_MM
        away = np.sqrt(part.distance(centre, np.full(3, radius)))
        change = np.where(mask & (away < 1), -0.9 * tissue, change)
        wall = mask & (np.abs(away - 1) < 0.6 / radius)
        change = np.where(wall, 0.16 * TISSUE, change)
    return project(change, chest, part.near)


def fibrosis(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """A net of fine lines under the pleura of both lungs, thickest at the bases or the apices."""
    part = Part.of(chest, chest.lungs)
    weight = (1 - part.up) if rng.random() < 0.7 else part.up
    rim = np.exp(-chest.lung_depth[part.near] / rng.uniform(14, 26))
    # Noise crosses zero along lines that look like the walls of a honeycomb.
    net = np.exp(-((part.noise(3.2, rng) / 0.28) ** 2))
    return part.solid(net * rim * weight**0.8 * rng.uniform(0.7, 1.2))


def pleural_thickening(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """A rim of soft tissue along the lateral wall of one lung, or a cap over its apex."""
    lung, outward = one_lung(chest, rng)
    part = Part.of(chest, lung)
    up, depth = part.up, wall_distance(part.mask, outward)
    if rng.random() < 0.3:
        where = expit((up - rng.uniform(0.8, 0.88)) * 60)
    else:
        low, length = rng.uniform(0.08, 0.35), rng.uniform(0.3, 0.55)
        where = expit((up - low) * 40) * expit((low + length - up) * 40)
    thick = rng.uniform(5, 13) * (1 + 0.25 * part.noise(14, rng))
    # Along the front and back walls it would veil the lung instead of lining it.
    shadow = np.asarray(part.mask.any(axis=1))
    edge = len(shadow) - 1 - shadow[::-1].argmax(axis=0) if outward > 0 else shadow.argmax(axis=0)
    lateral = np.abs(part.grid[0] - edge[None, None, :]) * COARSE_MM
    fill = expit((thick - depth) / 1.5) * where * np.where(up > 0.8, 1, expit((22 - lateral) / 4))
    return part.solid(fill * rng.uniform(0.8, 1.0))


def hernia(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Stomach in the chest: a round shadow behind the heart, with an air–fluid level."""
    heart = np.argwhere(chest.organs == HEART)
    spine = np.argwhere(chest.organs == LOWER_LEFT)
    radius = rng.uniform(24, 42) / COARSE_MM
    across = np.quantile(heart[:, 0], rng.uniform(0.35, 0.65))
    centre = np.array(
        [across, spine[:, 1].min() + radius, heart[:, 2].min() + radius * rng.uniform(0.6, 1.1)]
    )
    shape = chest.organs.shape
    away = np.sqrt(distance(np.ones(shape, dtype=bool), centre, radius * np.array([1, 1, 0.85])))
    inside = np.asarray(away < 1)
    level = centre[2] + radius * rng.uniform(-0.2, 0.35)
    air = inside & (np.arange(shape[2])[None, None, :] > level)
    change = np.where(inside & ~air, np.maximum(TISSUE - chest.coarse, 0.12 * TISSUE), 0)
    change = np.where(air, -0.95 * chest.coarse, change)
    change = np.where(np.abs(away - 1) < 0.9 / radius, 0.35 * TISSUE, change)
    return project(change)


INSERTS: dict[str, Insert] = {
    "Atelectasis": atelectasis,
    "Effusion": findings.effusion,
    "Infiltration": infiltration,
    # A mass is wider than 30 mm (Fleischner glossary).
    "Mass": partial(findings.ball, smallest_mm=16, largest_mm=34),
    "Nodule": partial(findings.ball, smallest_mm=6, largest_mm=14),
    "Pneumonia": pneumonia,
    "Pneumothorax": findings.pneumothorax,
    "Consolidation": findings.consolidation,
    "Edema": edema,
    "Emphysema": emphysema,
    "Fibrosis": fibrosis,
    "Pleural_Thickening": pleural_thickening,
    "Hernia": hernia,
}
