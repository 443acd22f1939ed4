"""Chest films, frontal and lateral, and films of other parts of the same CT.

Line integrals are kept apart by what absorbs (soft tissue, bone), so that people and beams of other
kinds come from one CT: both are weighed anew for each film. Films are made small (:data:`SIDE`) and
squashed to a square, as :func:`hilum.filmcheck.view.view` will see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from trainer.synthetic import film, findings
from trainer.synthetic.anatomy import COARSE, VOXEL_MM, WATER_PER_MM, Anatomy
from trainer.synthetic.film import Field

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

SIDE = 96  # more than the check looks at, so that films can be turned and cropped in training
_BONE = 1.18 * WATER_PER_MM  # per mm; denser voxels are bone


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Line integrals of one patient in one direction, ``[U, Z]``, u across and z up."""

    soft: Float32Array
    bone: Float32Array
    lungs: npt.NDArray[np.bool_]

    def weighed(self, rng: np.random.Generator) -> Float32Array:
        """Of a thinner or larger person with more or less bone, at another tube voltage."""
        thickness, bone = rng.uniform(0.7, 1.35), rng.uniform(0.5, 1.9)
        fat = _blobs(self.soft.shape, rng) * rng.uniform(0, 0.6) * (self.soft > 0.3)
        return np.asarray(self.soft * thickness + self.bone * bone + fat, dtype=np.float32)


def frontal(patient: Anatomy, rng: np.random.Generator, *, films: int) -> Iterator[UInt8Array]:
    """Frontal films ``[SIDE, SIDE]``: with findings, in every exposure and collimation."""
    shadow = _shadow(patient, axis=1)
    changes = [insert(patient, rng) for insert in findings.INSERTS.values()]
    changes += [findings.heart(patient, rng.uniform(1.1, 1.6), rng)[0]]
    for _ in range(films):
        chosen = [change for change in changes if rng.random() < 0.25]
        integrals = shadow.weighed(rng) + sum(chosen, np.float32(0))
        if rng.random() < 0.12:  # a lung without air
            integrals = integrals + _white_lung(shadow.lungs, rng)
        yield _exposed(integrals, film.collimate(shadow.lungs, rng), rng)


def lateral(patient: Anatomy, rng: np.random.Generator, *, films: int) -> Iterator[UInt8Array]:
    """Lateral films, of either side, ``[SIDE, SIDE]``."""
    shadow = _shadow(patient, axis=0)
    for _ in range(films):
        made = _exposed(shadow.weighed(rng), film.collimate(shadow.lungs, rng), rng)
        yield made if rng.random() < 0.5 else np.ascontiguousarray(made[:, ::-1])


def elsewhere(patient: Anatomy, rng: np.random.Generator, *, films: int) -> Iterator[UInt8Array]:
    """Films of parts of the same body that show no whole chest ``[SIDE, SIDE]``: upper abdomen,
    shoulder, neck and spine close up, and slices as a CT shows them."""
    across = [_shadow(patient, axis=1), _shadow(patient, axis=0)]
    for _ in range(films):
        if rng.random() < 0.25:
            yield _slice(patient, rng)
            continue
        shadow = across[int(rng.random() < 0.3)]
        yield _exposed(shadow.weighed(rng), _part(shadow.lungs, rng), rng)


def _shadow(patient: Anatomy, *, axis: int) -> Shadow:
    bony = patient.attenuation > _BONE
    soft = np.where(bony, np.float32(WATER_PER_MM), patient.attenuation)
    total = patient.attenuation.sum(axis=axis, dtype=np.float32)
    soft = np.maximum(soft, 0).sum(axis=axis, dtype=np.float32)
    lungs = patient.lungs.any(axis=axis).repeat(COARSE, 0).repeat(COARSE, 1)
    scale = np.float32(VOXEL_MM)
    return Shadow(soft=soft * scale, bone=np.maximum(total - soft, 0) * scale, lungs=lungs)


def _exposed(integrals: Float32Array, field: Field, rng: np.random.Generator) -> UInt8Array:
    """The upper eight bits of a film, squashed to a square."""
    if rng.random() < 0.4:  # collimated closer, as on many portable films
        width, depth = field.x1 - field.x0, field.z1 - field.z0
        left, right, low, high = rng.uniform(0, 0.07, 4)
        field = Field(
            x0=field.x0 + int(left * width),
            x1=field.x1 - int(right * width),
            z0=field.z0 + int(low * depth),
            z1=field.z1 - int(high * depth),
        )
    made = film.expose(np.maximum(integrals, 0), field, rng, side=SIDE).pixels
    zoom = [SIDE / side for side in made.shape]
    square = ndimage.zoom(made.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    return np.asarray(np.clip(square / (2**film.BITS / 256), 0, 255), dtype=np.uint8)


def _part(lungs: npt.NDArray[np.bool_], rng: np.random.Generator) -> Field:
    """A field that holds at most a third of the height, or half of the width, of the lungs."""
    u, z = np.nonzero(lungs)
    left, right, low, high = int(u.min()), int(u.max()), int(z.min()), int(z.max())
    width, depth = right - left, high - low
    kind = rng.integers(4)
    if kind == 0:  # upper abdomen
        z0, z1 = 0, low + int(depth * rng.uniform(0.05, 0.3))
        u0, u1 = left - int(width * rng.uniform(0, 0.3)), right + int(width * rng.uniform(0, 0.3))
    elif kind == 1:  # a shoulder, or the axilla with the ribs beside it
        z0, z1 = low + int(depth * rng.uniform(0.45, 0.75)), lungs.shape[1]
        half = int(width * rng.uniform(0.1, 0.35))
        u0, u1 = (0, left + half) if rng.random() < 0.5 else (right - half, lungs.shape[0])
    elif kind == 2:  # neck and apices
        z0, z1 = high - int(depth * rng.uniform(0.02, 0.25)), lungs.shape[1]
        u0, u1 = left + int(width * rng.uniform(0, 0.3)), right - int(width * rng.uniform(0, 0.3))
    else:  # close up on ribs or spine
        side = int(max(width, depth) * rng.uniform(0.15, 0.35))
        u0 = int(rng.integers(left, max(left + 1, right - side)))
        z0 = int(rng.integers(low, max(low + 1, high - side)))
        u1, z1 = u0 + side, z0 + side
    u0, z0 = max(0, u0), max(0, z0)
    u1, z1 = min(lungs.shape[0], max(u1, u0 + 16)), min(lungs.shape[1], max(z1, z0 + 16))
    return Field(x0=u0, x1=u1, z0=z0, z1=z1)


def _slice(patient: Anatomy, rng: np.random.Generator) -> UInt8Array:
    """An axial, coronal or sagittal slice in a lung or soft-tissue window."""
    axis = int(rng.integers(3))
    place = int(patient.attenuation.shape[axis] * rng.uniform(0.25, 0.75))
    cut = np.take(patient.attenuation, place, axis=axis)
    if axis < 2:
        cut = cut.T[::-1]
    low, high = (0, 1.3) if rng.random() < 0.5 else (0.75, 1.4)
    shown = np.clip((cut / WATER_PER_MM - low) / (high - low), 0, 1) * 255
    zoom = [SIDE / side for side in shown.shape]
    return np.asarray(
        np.clip(ndimage.zoom(shown, zoom, order=1, grid_mode=True, mode="nearest"), 0, 255),
        dtype=np.uint8,
    )


def _white_lung(lungs: npt.NDArray[np.bool_], rng: np.random.Generator) -> Float32Array:
    """Consolidation or fluid in most of one hemithorax."""
    u = np.arange(lungs.shape[0])
    middle = np.flatnonzero(lungs.any(axis=1)).mean()
    side = (u > middle) if rng.random() < 0.5 else (u < middle)
    share = ndimage.gaussian_filter((lungs & side[:, None]).astype(np.float32), 4)
    return np.asarray(share * rng.uniform(1.0, 2.5), dtype=np.float32)


def _blobs(shape: tuple[int, ...], rng: np.random.Generator) -> Float32Array:
    """A smooth field in [0, 1]: breasts, fat, a badly centred grid."""
    coarse = rng.random((4, 4))
    zoom = [side / 4 for side in shape]
    return np.asarray(ndimage.zoom(coarse, zoom, order=3, grid_mode=True, mode="nearest"))
