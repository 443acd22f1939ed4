"""The cohort that wears ChestX-ray14's labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.packages.labels import CHESTXRAY14, COVID_TB_PNEUMONIA
from trainer import manifest, wheels
from trainer.errors import DataError
from trainer.synthetic import anatomy, chestxray14, cohort, film, lung_findings, pose
from trainer.synthetic.anatomy import COARSE, HEART, Anatomy
from trainer.synthetic.chestxray14 import Patient

LABELS = CHESTXRAY14.labels


@pytest.fixture(scope="module")
def planned(wheel_cache: Path) -> list[Patient]:
    wheels.fetch(wheels.TABLES, wheel_cache)
    return chestxray14.plan(3000, seed=1, cache_dir=wheel_cache)


@pytest.fixture(scope="module")
def posed(chest: Anatomy) -> dict[pose.View, Anatomy]:
    rng = np.random.default_rng(4)
    body = pose.draw_body(rng)
    return {view: pose.take(chest, pose.draw_pose(body, view, rng)) for view in ("PA", "AP")}


def test_prevalence_and_co_occurrence_are_the_real_ones(planned: list[Patient]) -> None:
    visits = [visit for patient in planned for visit in patient.visits]
    assert abs(len(visits) - 3000) <= chestxray14.FILMS_A_PATIENT
    share = Counter(label for visit in visits for label in visit.labels)
    for label, percent in (("Infiltration", 17.74), ("Effusion", 11.88), ("Hernia", 0.20)):
        assert abs(100 * share[label] / len(visits) - percent) < 0.15, label
    # Of the real films with edema 32 per cent have an effusion, of all 12 per cent.
    both = sum({"Edema", "Effusion"} <= visit.labels for visit in visits)
    assert both / share["Edema"] > 0.2
    bedside = [visit for visit in visits if visit.view == "AP"]
    edema = Counter(visit.view for visit in visits if "Edema" in visit.labels)
    assert abs(len(bedside) / len(visits) - 0.40) < 0.02
    assert edema["AP"] > 4 * edema["PA"]


def test_every_split_has_every_label(planned: list[Patient]) -> None:
    found: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    films = Counter[str]()
    for patient in planned:
        films[patient.split] += len(patient.visits)
        for visit in patient.visits:
            found[patient.split] |= visit.labels
    assert all(labels == set(LABELS) for labels in found.values())
    total = sum(films.values())
    for split, share in chestxray14.SHARES.items():
        assert abs(films[split] / total - share) < 0.01


def test_sizes_it_cannot_have(wheel_cache: Path) -> None:
    with pytest.raises(DataError, match="must have 16 to 112120 films"):
        chestxray14.plan(200_000, seed=0, cache_dir=wheel_cache)


def test_the_cohort_on_disk(wheel_cache: Path, tmp_path: Path) -> None:
    path = cohort.generate(
        tmp_path,
        images=16,
        seed=3,
        processes=1,
        schema=CHESTXRAY14,
        side=96,
        cache_dir=wheel_cache,
    )
    records = manifest.read(path, CHESTXRAY14)
    assert len(records) == len(list((tmp_path / "images").iterdir()))
    assert abs(len(records) - 16) <= chestxray14.FILMS_A_PATIENT
    assert {record.view for record in records} == {"PA", "AP"}
    assert {record.sex for record in records} == {"M", "F"}
    assert {record.site for record in records} <= set(chestxray14.DEVICES)
    for record in records:
        assert 0 <= record.age < 100
        present = {label for label, t in zip(LABELS, record.targets, strict=True) if t == 1}
        assert {box.label for box in record.boxes} == present
        with Image.open(tmp_path / record.uri) as image:
            assert max(image.size) == 96
            width, height = image.size
        for box in record.boxes:
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height


def test_no_cohort_of_another_schema(wheel_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no synthetic cohort of schema 'covid"):
        cohort.generate(
            tmp_path,
            images=8,
            seed=0,
            processes=1,
            schema=COVID_TB_PNEUMONIA,
            cache_dir=wheel_cache,
        )


@pytest.mark.parametrize("label", sorted(lung_findings.INSERTS))
def test_each_finding_shows_and_lies_in_the_chest(
    posed: dict[pose.View, Anatomy], label: str
) -> None:
    chest = posed["PA"]
    change = lung_findings.INSERTS[label](chest, np.random.default_rng(5))
    assert change is not None
    assert change.shape == chest.integrals.shape
    darker = {"Pneumothorax", "Emphysema"}
    if label in darker:
        assert change.min() < -0.05
    elif label != "Hernia":  # which has its air above its fluid
        assert change.min() >= -1e-6
        assert change.max() > 0.05
    near = chest.lungs.any(axis=1) | (chest.organs == HEART).any(axis=1)
    x, z = np.nonzero(near)
    outside = change.copy()
    outside[x.min() * COARSE - 14 : x.max() * COARSE + 14, z.min() * COARSE - 14 :] = 0
    assert np.abs(outside).max() < 0.05 * np.abs(change).max()


def test_the_signs_that_tell_findings_apart(posed: dict[pose.View, Anatomy]) -> None:
    chest = posed["PA"]
    made = {
        label: insert(chest, np.random.default_rng(8))
        for label, insert in lung_findings.INSERTS.items()
    }
    area = {label: int((np.abs(c) > 0.25 * np.abs(c).max()).sum()) for label, c in made.items()}
    assert area["Nodule"] < area["Mass"] < area["Edema"]
    assert np.abs(made["Infiltration"]).max() < np.abs(made["Consolidation"]).max()
    lungs = np.nonzero(chest.lungs.any(axis=1))
    middle = (lungs[0].min() + lungs[0].max()) / 2 * COARSE
    for label in ("Edema", "Emphysema", "Fibrosis"):  # on both sides
        sides = np.abs(made[label][: int(middle)]).sum(), np.abs(made[label][int(middle) :]).sum()
        assert min(sides) > 0.25 * max(sides), label
    # Edema lies around the hila, fibrosis away from them.
    x = np.abs(np.arange(made["Edema"].shape[0]) - middle)[:, None]
    spread = {k: (np.abs(made[k]) * x).sum() / np.abs(made[k]).sum() for k in ("Edema", "Fibrosis")}
    assert spread["Edema"] < spread["Fibrosis"]


def test_the_heart_is_larger_on_a_bedside_film(chest: Anatomy) -> None:
    """The same body in the same posture: only beam and detector differ."""
    rng = np.random.default_rng(0)
    body = pose.draw_body(rng)
    standing = pose.draw_pose(body, "PA", rng)
    fields = {"matrix": standing.matrix, "shift": standing.shift}
    width = {}
    for view, distance in (("PA", 1800.0), ("AP", 1000.0)):
        there = pose.take(chest, pose.Pose(view=view, distance_mm=distance, **fields))
        width[view] = np.sqrt((there.organs == HEART).any(axis=1).sum())
    assert width["AP"] > 1.03 * width["PA"]


def test_without_a_divergent_beam_nothing_is_magnified(chest: Anatomy) -> None:
    far = pose.Pose(matrix=np.eye(3), shift=np.zeros(3), view="PA", distance_mm=1e9)
    there = pose.take(chest, far)
    np.testing.assert_allclose(there.integrals, chest.integrals, atol=0.02)
    assert np.array_equal(there.organs, chest.organs)


def test_marker_and_leads_go_with_the_view(chest: Anatomy) -> None:
    visits = tuple(
        chestxray14.Visit(view=view, labels=frozenset()) for view in ("PA", "AP") for _ in range(12)
    )
    patient = Patient(number=0, split="train", sex="M", age=50, site="site-a", visits=visits)
    films = list(chestxray14.films(chest, patient, np.random.default_rng(1), side=96))
    white = round((2**film.BITS - 1) * 0.97)
    marked = [int((made.film.pixels == white).sum()) for made in films]
    assert 6 <= sum(n > 8 for n in marked[:12]) <= 12
    pa, ap = (np.median([n for n in part if n > 8]) for part in (marked[:12], marked[12:]))
    assert ap > 1.3 * pa, "AP is written beside the side marker"
    assert anatomy.LOBES[0] == anatomy.UPPER_LEFT
