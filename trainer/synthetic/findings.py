"""Findings as additions to the line integrals of a chest.

Projection is linear: the film of a chest with a finding is the film of the chest plus the
projection of what the finding changes. Each function returns that change, ``[X, Z]`` in
attenuation × mm on the detector grid (positive: brighter). Shapes, sides and sizes are drawn from
``rng``. The chest has a heart and all five lobes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit

from trainer.arrays import BoolArray, Float32Array, FloatArray
from trainer.synthetic.anatomy import (
    COARSE,
    HEART,
    LUNG_LEFT,
    LUNG_RIGHT,
    VOXEL_MM,
    WATER_PER_MM,
    Anatomy,
    around,
)

Insert = Callable[[Anatomy, np.random.Generator], Float32Array]
Crop = tuple[slice, ...]  # of the grid of the organs

TISSUE = 1.03 * WATER_PER_MM  # per mm
COARSE_MM = VOXEL_MM * COARSE
WHOLE: Crop = (slice(None),) * 3


def heart(
    chest: Anatomy, factor: float, rng: np.random.Generator
) -> tuple[Float32Array, BoolArray]:
    """Enlarge the heart by ``factor`` >= 1 across, in place of lung and fat; returns the change
    and the silhouette of the heart, bool ``[X, Z]``."""
    mask = chest.organs == HEART
    where = np.argwhere(mask)
    # The left ventricle grows to the left and down, and less towards the back.
    anchor = where.mean(axis=0) - np.array([0.15, 0, -0.2]) * np.ptp(where, axis=0)
    factors = np.array([factor, 1 + 0.6 * (factor - 1), 1 + 0.7 * (factor - 1)])
    factors = factors * rng.uniform(0.97, 1.03, 3)
    # Work only where the scaled heart can be: the rest of the chest would cost most of the time.
    reach = np.abs(where - anchor).max(axis=0) * factors + 2
    start = np.maximum(0, np.floor(anchor - reach)).astype(int)
    stop = np.minimum(mask.shape, np.ceil(anchor + reach) + 1).astype(int)
    near = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    scaled = np.zeros_like(mask)
    scaled[near] = (
        ndimage.affine_transform(
            mask.astype(np.float32),
            1 / factors,
            anchor - anchor / factors + start / factors,
            output_shape=tuple(int(n) for n in stop - start),
            order=1,
        )
        > 0.5
    )
    # The heart never replaces the air around the patient; denser tissue stays.
    room = chest.lungs | (chest.coarse > 0.7 * WATER_PER_MM)
    enlarged = mask | (scaled & room)
    change = np.where(enlarged & ~mask, np.maximum(TISSUE - chest.coarse, 0), 0)
    silhouette = enlarged.any(axis=1)
    return project(change), silhouette.repeat(COARSE, axis=0).repeat(COARSE, axis=1)


def effusion(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Fluid in the dependent pleural space, with a meniscus rising to the lateral wall."""
    mask, outward = one_lung(chest, rng)
    x, _, z = np.nonzero(mask)
    lateral = np.where(outward > 0, x.max() - x, x - x.min()) * COARSE_MM
    height = (z - z.min()) * COARSE_MM
    rise = rng.uniform(25, 60) * np.exp(-lateral / rng.uniform(12, 30))
    level = np.quantile(height - rise, rng.uniform(0.10, 0.35))
    filled = np.zeros(mask.shape, dtype=np.float32)
    filled[mask] = expit((level - height + rise) / 3.0)
    return solid(chest, filled)


def pneumothorax(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Air between the chest wall and a retracted lung, widest at the apex, with a pleural line;
    the rest of the lung is slightly denser."""
    mask, outward = one_lung(chest, rng)
    z = np.nonzero(mask)[2]
    depth = wall_distance(mask, outward)
    up = np.clip((np.arange(mask.shape[2]) - z.min()) / max(1, np.ptp(z)), 0, 1)
    rim = rng.uniform(14, 38) * (0.25 + 0.75 * up ** rng.uniform(0.7, 1.6))
    air = mask & (depth < rim)
    line = mask & (depth >= rim) & (depth < rim + 1.2 * COARSE_MM)
    rest = mask & ~air & ~line
    change = np.where(air, -chest.coarse, 0)
    change += np.where(line, rng.uniform(0.35, 0.6) * TISSUE, 0)
    change += np.where(rest, rng.uniform(0.03, 0.12) * WATER_PER_MM, 0)
    return project(change)


def nodule(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """A round or lobulated soft-tissue nodule or mass, 18 to 54 mm wide, within a lung."""
    return ball(chest, rng, smallest_mm=9, largest_mm=27)


def ball(
    chest: Anatomy, rng: np.random.Generator, *, smallest_mm: float, largest_mm: float
) -> Float32Array:
    """A round or lobulated body of soft tissue within a lung, its radius between the two limits."""
    radius = float(np.exp(rng.uniform(np.log(smallest_mm), np.log(largest_mm))))
    # A large mass may touch the pleura; a small nodule must not.
    room = np.argwhere(chest.lung_depth > min(radius * 0.9, 0.8 * float(chest.lung_depth.max())))
    centre = room[rng.integers(len(room))] * COARSE + rng.uniform(0, COARSE, 3)
    width, height = chest.attenuation.shape[0], chest.attenuation.shape[2]
    x, z = np.ogrid[:width, :height]
    dx = (x - centre[0]) * VOXEL_MM
    dz = (z - centre[2]) * VOXEL_MM
    angle = np.arctan2(dz, dx)
    edge = np.full(angle.shape, radius)
    for order in (2, 3, 4, 5):
        edge += radius * rng.normal(0, 0.05) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    # The chord of a ball of the local radius.
    chord = 2 * np.sqrt(np.maximum(edge**2 - dx**2 - dz**2, 0))
    contrast = rng.uniform(0.85, 1.1) * TISSUE
    return np.asarray(chord * contrast, dtype=np.float32)


def consolidation(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """A patchy, ill-defined opacity of about 50 to 100 mm within one lung."""
    mask, _ = one_lung(chest, rng)
    places = np.argwhere(mask)
    centre = places[rng.integers(len(places))]
    away = distance(mask, centre, rng.uniform(26, 52, 3) / COARSE_MM)
    noise = smooth(rng.standard_normal(mask.shape).astype(np.float32), 7)
    fill = expit(4 * (0.8 + 0.35 * noise - away))
    return solid(chest, np.where(mask, fill, 0) * rng.uniform(0.7, 1.0))


INSERTS: dict[str, Insert] = {
    "Effusion": effusion,
    "Pneumothorax": pneumothorax,
    "Nodule/Mass": nodule,
    "Consolidation": consolidation,
}


def one_lung(anatomy: Anatomy, rng: np.random.Generator) -> tuple[BoolArray, int]:
    """One lung, bool ``[X/2, Y/2, Z/2]``, and the direction of its lateral wall along x (1, -1)."""
    organ, outward = ((LUNG_LEFT, 1), (LUNG_RIGHT, -1))[int(rng.integers(2))]
    return np.isin(anatomy.organs, organ), outward


def wall_distance(mask: BoolArray, outward: int) -> FloatArray:
    """Distance in mm of each voxel of a lung to the chest wall, lateral or at the apex.

    A lung falls away from these, not from the mediastinum: below the apex, the medial side does not
    count as wall.
    """
    x, _, z = np.nonzero(mask)
    wall = ~mask
    inner = (np.ptp(x) * 2) // 5
    medial = slice(None, x.min() + inner) if outward > 0 else slice(x.max() - inner, None)
    wall[medial, :, : z.max() - np.ptp(z) // 6] = False
    return np.asarray(ndimage.distance_transform_edt(~wall) * COARSE_MM)


@dataclass(frozen=True)
class Part:
    """A part of the chest, with the box around it on the grid of the organs."""

    chest: Anatomy
    near: Crop  # the box
    mask: BoolArray  # of the part in the box

    @classmethod
    def of(cls, chest: Anatomy, whole: BoolArray) -> Part:
        """The part ``whole``, bool ``[X/2, Y/2, Z/2]``."""
        near = around(whole)
        return cls(chest, near, whole[near])

    @property
    def grid(self) -> list[FloatArray]:
        """The coordinates of the voxels along each axis, ready to broadcast."""
        return grid(self.mask)

    @property
    def up(self) -> FloatArray:
        """How far up each plane lies, from 0 at the lowest of the part to 1 at its apex."""
        z = np.nonzero(self.mask)[2]
        return np.asarray(np.clip((self.grid[2] - z.min()) / max(1, np.ptp(z)), 0, 1))

    def noise(self, width_mm: float, rng: np.random.Generator) -> Float32Array:
        """Noise of unit variance with a grain of ``width_mm``."""
        return smooth(rng.standard_normal(self.mask.shape, dtype=np.float32), width_mm)

    def distance(self, centre: npt.NDArray[np.generic], radii: FloatArray) -> FloatArray:
        """See :func:`distance`."""
        return distance(self.mask, centre, radii)

    def solid(self, fill: FloatArray) -> Float32Array:
        """The change where the share ``fill`` of each voxel of the part becomes soft tissue."""
        return solid(self.chest, np.where(self.mask, fill, 0), self.near)


def grid(mask: BoolArray) -> list[FloatArray]:
    """The coordinates of the voxels of ``mask`` along each axis, ready to broadcast."""
    return [axis.astype(np.float64) for axis in np.ogrid[tuple(slice(0, n) for n in mask.shape)]]


def distance(mask: BoolArray, centre: npt.NDArray[np.generic], radii: FloatArray) -> FloatArray:
    """Squared distance of each voxel of ``mask`` from ``centre`` in units of ``radii``."""
    terms = zip(grid(mask), centre.astype(np.float64), radii, strict=True)
    return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in terms))


def smooth(white: Float32Array, width_mm: float) -> Float32Array:
    """Noise of unit variance with a grain of ``width_mm``, from ``white`` noise."""
    blurred = ndimage.gaussian_filter(white, width_mm / COARSE_MM)
    return np.asarray(blurred / blurred.std())


def solid(chest: Anatomy, fill: FloatArray, near: Crop = WHOLE) -> Float32Array:
    """The change where the share ``fill`` of each voxel of ``near`` becomes soft tissue."""
    return project(fill * np.maximum(TISSUE - chest.coarse[near], 0), chest, near)


def project(change: FloatArray, chest: Anatomy | None = None, near: Crop = WHOLE) -> Float32Array:
    """Sum ``change`` per mm along the beam (y) and bring it to the detector grid ``[X, Z]``.

    ``change`` covers the grid of the organs, or its part ``near`` in ``chest``.
    """
    summed = np.zeros((change if chest is None else chest.organs).shape[::2], dtype=np.float32)
    summed[near[0], near[2]] = change.sum(axis=1, dtype=np.float32) * np.float32(COARSE_MM)
    return np.asarray(ndimage.zoom(summed, COARSE, order=1, grid_mode=True, mode="nearest"))
