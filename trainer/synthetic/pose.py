"""How a chest is placed for a film: body, posture, and the divergent beam of the view.

The volume is resampled so that each plane across the beam has its magnification, which follows from
its distance to the detector. The projection then is a plain sum along y. The heart is near the
detector in PA. It appears larger in AP, at the shorter distance of a bedside film.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from trainer.arrays import Float32Array
from trainer.synthetic.anatomy import COARSE, VOXEL_MM, Anatomy, rotation

View = Literal["PA", "AP"]

_GAP_MM: Final = 25.0  # between skin and detector


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a body stands for one film."""

    matrix: npt.NDArray[np.float64]  # [3, 3] from this patient's frame to the CT's
    shift: npt.NDArray[np.float64]  # [3], fine voxels
    view: View
    distance_mm: float  # from source to detector


def draw_body(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw another size and other proportions of the same chest: its scale ``[3]``, which all films
    of a patient share."""
    return rng.uniform((0.86, 0.86, 0.88), (1.1, 1.12, 1.1))


def draw_pose(body: npt.NDArray[np.float64], view: View, rng: np.random.Generator) -> Pose:
    """Draw a pose. PA: standing, with full breath, at 1.8 m. AP: lying or propped up, less
    straight, with less breath, at about one metre."""
    bedside = view == "AP"
    spread = np.deg2rad((5.0, 5.0, 4.0) if bedside else (3.0, 3.5, 2.0))
    breath = rng.uniform(0.9, 1.0) if bedside else rng.uniform(0.97, 1.04)
    scale = body * np.array([1, 1, breath])
    return Pose(
        matrix=rotation(*rng.normal(0, spread)) @ np.diag(1 / scale),
        shift=rng.normal(0, (4, 0, 5)) / VOXEL_MM,
        view=view,
        distance_mm=rng.uniform(950, 1250) if bedside else rng.uniform(1750, 1850),
    )


def take(chest: Anatomy, pose: Pose) -> Anatomy:
    """``chest`` in ``pose``, resampled once, with every other plane along the beam."""
    x, y, z = (np.arange(n, dtype=np.float64) for n in chest.attenuation.shape)
    planes = (y[::COARSE] + y[1::COARSE]) / 2
    fine = _sample(chest.attenuation, chest, pose, (x, planes, z), mode="bilinear")
    middle = tuple((axis[::COARSE] + axis[1::COARSE]) / 2 for axis in (x, y, z))
    organs = _sample(chest.organs, chest, pose, middle, mode="nearest")
    return Anatomy(
        attenuation=fine, organs=organs.astype(np.uint8), plane_mm=VOXEL_MM * len(y) / len(planes)
    )


def magnification(
    planes: npt.NDArray[np.float64], depth: int, pose: Pose
) -> npt.NDArray[np.float64]:
    """Magnification of ``planes`` along y (fine voxels of ``depth``) relative to the middle one."""
    y = planes * VOXEL_MM
    far = (depth - 1) * VOXEL_MM - y
    from_detector = _GAP_MM + (far if pose.view == "PA" else y)
    middle = _GAP_MM + (depth - 1) / 2 * VOXEL_MM
    ratio = (pose.distance_mm - middle) / (pose.distance_mm - from_detector)
    return np.asarray(ratio)


def _sample(
    grid: npt.NDArray[np.generic],
    chest: Anatomy,
    pose: Pose,
    axes: tuple[npt.NDArray[np.float64], ...],
    *,
    mode: str,
) -> Float32Array:
    """The values of ``grid`` at the points of ``axes`` (fine voxels) in ``pose``."""
    shape = np.array(chest.attenuation.shape)
    centre = (shape - 1) / 2
    shrink = 1 / magnification(axes[1], int(shape[1]), pose)
    x, y, z = (axis - middle for axis, middle in zip(axes, centre, strict=True))
    points = np.empty((len(x), len(y), len(z), 3), dtype=np.float32)
    for k in range(3):
        along = pose.matrix[k]
        start = centre[k] - along @ pose.shift
        # Across the beam, and along it, in units of grid_sample: -1 and 1 are the outer faces.
        half = shape[k] / 2
        xy = (along[0] * x[:, None] * shrink + along[1] * y + start + 0.5) / half - 1
        yz = along[2] * shrink[:, None] * z / half
        np.add(
            xy[:, :, None].astype(np.float32),
            yz[None].astype(np.float32),
            out=points[..., 2 - k],  # grid_sample wants the last axis first
        )
    volume = torch.from_numpy(grid.astype(np.float32))[None, None]
    found = F.grid_sample(
        volume,
        torch.from_numpy(points)[None],
        mode=mode,
        padding_mode="border",  # the body continues beyond the ends of the CT
        align_corners=False,
    )
    return np.asarray(found[0, 0].numpy())
