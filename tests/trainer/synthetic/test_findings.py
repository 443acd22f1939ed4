"""Each finding changes the film where it is, and in the direction a radiologist would expect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trainer.synthetic import anatomy, cohort, film, findings
from trainer.synthetic.anatomy import COARSE, HEART, VOXEL_MM, Anatomy

SEEDS = range(4)


def _lungs(chest: Anatomy) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    shadow = chest.lungs.any(axis=1)
    return shadow.repeat(COARSE, axis=0).repeat(COARSE, axis=1)


@pytest.mark.parametrize("insert", [findings.effusion, findings.nodule, findings.consolidation])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_denser_than_lung_makes_the_film_whiter(
    patient: Anatomy, insert: Callable[..., film.Float32Array], seed: int
) -> None:
    change = insert(patient, np.random.default_rng(seed))
    assert change.shape == (patient.attenuation.shape[0], patient.attenuation.shape[2])
    assert change.min() >= -1e-6
    assert change.max() > 0.2, "at least a centimetre of water"


@pytest.mark.parametrize("seed", SEEDS)
def test_pneumothorax_is_darker_where_it_is(patient: Anatomy, seed: int) -> None:
    change = findings.pneumothorax(patient, np.random.default_rng(seed))
    assert change is not None
    assert change.min() < -0.05
    # On one side only, and always at the apex.
    dark = change < 0.3 * change.min()
    x, z = np.nonzero(_lungs(patient))
    middle = (x.min() + x.max()) // 2
    sides = dark[: middle - 10].sum(), dark[middle + 10 :].sum()
    assert min(sides) == 0
    assert dark[:, z.max() - np.ptp(z) // 6 :].any()


def test_effusion_lies_at_the_bottom(patient: Anatomy) -> None:
    change = findings.effusion(patient, np.random.default_rng(0))
    assert change is not None
    weight = change.sum(axis=0)
    height = (weight * np.arange(len(weight))).sum() / weight.sum()
    assert height < np.nonzero(_lungs(patient))[1].mean()


@pytest.mark.parametrize("factor", [1.3, 1.5])
def test_an_enlarged_heart_is_wider_by_its_factor(patient: Anatomy, factor: float) -> None:
    def width(silhouette: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
        return int(np.ptp(np.flatnonzero(silhouette.any(axis=1))))

    normal = (patient.organs == HEART).any(axis=1).repeat(COARSE, 0).repeat(COARSE, 1)
    change, enlarged = findings.heart(patient, factor, np.random.default_rng(0))
    assert change.min() >= -1e-6
    # The chest wall and the diaphragm may stop it.
    assert 1 + 0.5 * (factor - 1) < width(enlarged) / width(normal) < factor * 1.05


def test_no_finding_reaches_where_there_is_no_lung(patient: Anatomy) -> None:
    """A lesion outside the chest would be a shortcut: the box, not the disease."""
    near = np.asarray(_lungs(patient))
    margin = round(30 / VOXEL_MM)
    reach = np.zeros_like(near)
    x, z = np.nonzero(near)
    reach[
        max(0, x.min() - margin) : x.max() + margin, max(0, z.min() - margin) : z.max() + margin
    ] = True
    for name, insert in findings.INSERTS.items():
        change = insert(patient, np.random.default_rng(3))
        assert change is not None
        assert np.abs(change[~reach]).max() < 0.05 * np.abs(change).max(), name


def test_films_differ_in_more_than_their_findings(chest: Anatomy) -> None:
    rng = np.random.default_rng(2)
    nothing: frozenset[str] = frozenset()
    one, two = cohort.patient_films(chest, rng, iter([nothing, nothing]), side=96)
    assert one.labels == two.labels == nothing
    assert one.boxes == two.boxes == ()
    assert not np.array_equal(one.film.pixels, two.film.pixels)
    assert one.film.pixels.max() < 2**film.BITS


def test_patients_differ(chest: Anatomy) -> None:
    rng = np.random.default_rng(1)
    one, two = anatomy.vary(chest, rng), anatomy.vary(chest, rng)
    assert not np.array_equal(one.organs, two.organs)
    for made in (one, two):
        assert made.lungs.sum() > 0.5 * chest.lungs.sum(), "the lungs stay within the grid"


def test_a_finding_cut_off_by_collimation_is_not_labelled() -> None:
    change = np.zeros((40, 40), dtype=np.float32)
    change[2:6, 2:6] = 1.0
    exposed = film.expose(
        np.ones((40, 40), dtype=np.float32),
        film.Field(x0=20, x1=40, z0=0, z1=40),
        np.random.default_rng(0),
        side=40,
    )
    assert film.box_of(change, exposed) is None


def test_a_box_is_where_the_finding_is() -> None:
    """x runs to the right of the image, z from feet to head: up."""
    change = np.zeros((40, 60), dtype=np.float32)
    change[10:14, 50:55] = 1.0
    exposed = film.expose(
        np.ones((40, 60), dtype=np.float32),
        film.Field(x0=5, x1=35, z0=0, z1=60),
        np.random.default_rng(0),
        side=120,
    )
    assert exposed.pixels.shape == (120, 60)
    assert film.box_of(change, exposed) == (10.0, 10.0, 18.0, 20.0)
