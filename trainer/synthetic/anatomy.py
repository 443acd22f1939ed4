"""A chest as attenuation on a regular grid, and its variation from patient to patient."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hilum.files import write_atomically
from trainer import wheels
from trainer.arrays import BoolArray, Float32Array, UInt8Array

_T = TypeVar("_T", bound=np.generic)

VOXEL_MM = 1.75
COARSE = 2  # findings are built on a grid COARSE times as wide
# Linear attenuation of water at the mean energy of a chest film (about 60 keV), NIST XCOM.
WATER_PER_MM = 0.0206

HEART = 1
UPPER_LEFT, LOWER_LEFT, UPPER_RIGHT, MIDDLE_RIGHT, LOWER_RIGHT = LOBES = (2, 3, 4, 5, 6)
LUNG_LEFT, LUNG_RIGHT = (UPPER_LEFT, LOWER_LEFT), (UPPER_RIGHT, MIDDLE_RIGHT, LOWER_RIGHT)
# TotalSegmentator ids in the wheel's structures.csv.
_STRUCTURES = {
    HEART: (51, 61),
    UPPER_LEFT: (10,),
    LOWER_LEFT: (11,),
    UPPER_RIGHT: (12,),
    MIDDLE_RIGHT: (13,),
    LOWER_RIGHT: (14,),
}
_COUCH_HU = -300.0


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A chest: attenuation on a cubic grid ``[x, y, z]``, organs on one :data:`COARSE` times as
    wide. x runs from the patient's right to left, y from back to front, z from feet to head."""

    attenuation: Float32Array  # [X, Y, Z] per mm, voxels of VOXEL_MM across
    organs: UInt8Array  # [X/2, Y/2, Z/2]: 0, HEART, or one of LOBES
    plane_mm: float = VOXEL_MM  # thickness of a plane of attenuation, along y

    @property
    def integrals(self) -> Float32Array:
        """Line integrals of the attenuation along the beam ``[X, Z]``."""
        summed = self.attenuation.sum(axis=1, dtype=np.float32)
        return np.asarray(summed * np.float32(self.plane_mm))

    @cached_property
    def coarse(self) -> Float32Array:
        """Attenuation on the grid of the organs, per mm."""
        n = COARSE
        x, y, z = self.organs.shape
        blocks = self.attenuation.reshape(x, n, y, -1, z, n)
        return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))

    @cached_property
    def lungs(self) -> BoolArray:
        """Both lungs on the coarse grid."""
        return np.isin(self.organs, LOBES)

    @cached_property
    def lung_depth(self) -> Float32Array:
        """Distance in mm of each coarse voxel of a lung to that lung's surface."""
        depth = np.zeros(self.organs.shape, dtype=np.float32)
        near = around(self.lungs)
        depth[near] = ndimage.distance_transform_edt(self.lungs[near]) * (VOXEL_MM * COARSE)
        return depth


def around(mask: BoolArray) -> tuple[slice, ...]:
    """The box of ``mask`` and one voxel more on each side, where there is one."""
    return tuple(_extent(mask, axis=axis, margin=1) for axis in range(mask.ndim))


def load(cache: Path) -> Anatomy:
    """The chest of the CT, without couch and cables.

    It takes seconds to make, so ``cache`` keeps it beside the wheel, named by a digest of the wheel
    and of this module.

    Raises:
        DataError: the wheel cannot be downloaded.
    """
    code = hashlib.sha256(Path(__file__).read_bytes() + wheels.CHEST.sha256.encode()).hexdigest()
    kept = cache / f"chest-{code[:16]}.npz"
    if kept.is_file():
        with np.load(kept) as arrays:
            return Anatomy(attenuation=arrays["attenuation"], organs=arrays["organs"])
    chest = _from_ct(cache)
    out = io.BytesIO()
    np.savez(out, attenuation=chest.attenuation, organs=chest.organs)
    write_atomically(kept, out.getvalue())
    return chest


def _from_ct(cache: Path) -> Anatomy:
    ct, structures = wheels.read_chest(cache)
    body = _body(ct > _COUCH_HU)
    hounsfield = np.where(body, np.clip(ct, -1000, 2000), -1000.0).astype(np.float32)
    zoom = [spacing / VOXEL_MM for spacing in wheels.CHEST_SPACING_MM]
    attenuation = WATER_PER_MM * (1 + ndimage.zoom(hounsfield, zoom, order=1) / 1000)
    organs = np.zeros(ct.shape, dtype=np.uint8)
    for organ, ids in _STRUCTURES.items():
        organs[np.isin(structures, ids)] = organ
    organs = ndimage.zoom(organs, zoom, order=0)
    # Air before and behind the body, and the abdomen, which no chest film shows, would cost time.
    y = _extent(attenuation > 0.5 * WATER_PER_MM, axis=1, margin=4)
    z = _extent(organs > 0, axis=2, margin=round(90 / VOXEL_MM))
    cropped, labels = attenuation[:, y, z], organs[:, y, z]
    n = COARSE
    whole = tuple(slice(0, side - side % n) for side in cropped.shape)
    middle = tuple(slice(n // 2, side - side % n, n) for side in cropped.shape)
    organs = np.ascontiguousarray(labels[middle])
    organs[_solid_heart(organs)] = HEART
    return Anatomy(
        attenuation=np.ascontiguousarray(cropped[whole], dtype=np.float32), organs=organs
    )


def vary(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Another patient: the same chest in another size, proportions and posture.

    Every patient is resampled exactly once, so that resampling says nothing about findings.
    """
    tilt, turn, lean = np.deg2rad(rng.normal(0, (3.5, 4.0, 2.5)))
    turned = rotation(tilt, turn, lean)
    scale = np.diag(1 / rng.uniform((0.86, 0.86, 0.86), (1.1, 1.12, 1.1)))
    matrix = turned @ scale
    shift = rng.normal(0, (4, 0, 5)) / VOXEL_MM
    return Anatomy(
        attenuation=_posed(anatomy.attenuation, matrix, shift, order=1),
        organs=_posed(anatomy.organs, matrix, shift / COARSE, order=0),
    )


def _solid_heart(organs: UInt8Array) -> BoolArray:
    """The heart in one piece: the mask of the CT covers the chambers only."""
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(3, 1), 5)
    closed = ndimage.binary_closing(np.pad(organs == HEART, 6), ball)[6:-6, 6:-6, 6:-6]
    filled = ndimage.binary_fill_holes(closed)
    return np.asarray(filled & ~np.isin(organs, LOBES))


def _posed(
    grid: npt.NDArray[_T],
    matrix: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    *,
    order: int,
) -> npt.NDArray[_T]:
    centre = (np.array(grid.shape) - 1) / 2
    offset = centre - matrix @ (centre + shift)
    return np.asarray(ndimage.affine_transform(grid, matrix, offset, order=order))


def _extent(mask: BoolArray, *, axis: int, margin: int) -> slice:
    others = tuple(a for a in range(3) if a != axis)
    where = np.flatnonzero(mask.any(axis=others))
    return slice(max(0, int(where[0]) - margin), int(where[-1]) + 1 + margin)


def _body(dense: BoolArray) -> BoolArray:
    """The largest dense component and everything inside it."""
    opened = ndimage.binary_opening(dense, np.ones((3, 3, 1)), iterations=2)
    labels, _ = ndimage.label(opened)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(labels == sizes.argmax(), np.ones((3, 3, 1)), iterations=2)
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    return np.asarray(body, dtype=np.bool_)


def rotation(tilt: float, turn: float, lean: float) -> npt.NDArray[np.float64]:
    """The matrix ``[3, 3]`` of a rotation about x (tilt), z (turn) and y (lean), in radians."""
    cx, sx = np.cos(tilt), np.sin(tilt)
    cz, sz = np.cos(turn), np.sin(turn)
    cy, sy = np.cos(lean), np.sin(lean)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(about_x @ about_z @ about_y)
