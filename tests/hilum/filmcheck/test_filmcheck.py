"""The bundled check on the real films, the samples and what is plainly something else."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from support.tiny_film import film

from hilum import dicom
from hilum.filmcheck import Doubt, doubts
from hilum.filmcheck.network import KINDS, bundled, thresholds
from hilum.filmcheck.view import SIDE, ranks, view
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import ModelInput, Placement, model_input
from hilum.settings import Limits

SAMPLES = sorted((Path(__file__).parents[3] / "models/samples").glob("*.dcm"))
ROOT = files("hilum.filmcheck")


@cache
def seen(name: str, size: int = 224) -> ModelInput:
    path = name if name.startswith("/") else get_testdata_file(name, download=False)
    opened = dicom.open_film(Path(str(path)).read_bytes(), Limits())
    return model_input(opened, PreprocessSpec(size=size))


def posed(found: ModelInput, *, turn: int = 0, inverted: bool = False) -> ModelInput:
    """The same film sent turned or inverted; what lies around it stays black."""
    place = found.placement
    inside = found.image[0, place.y0 : place.y1, place.x0 : place.x1]
    inside = np.rot90(255 - inside if inverted else inside, turn)
    height, width = inside.shape
    box = Placement.letterbox(height=height, width=width, size=place.size)
    image = np.zeros_like(found.image)
    image[0, box.y0 : box.y0 + height, box.x0 : box.x0 + width] = inside
    moved = Placement(x0=box.x0, y0=box.y0, x1=box.x0 + width, y1=box.y0 + height, size=place.size)
    return ModelInput(image=image, placement=moved)


RIGHT = ["RG1_UNCR.dcm", *map(str, SAMPLES)]
names = pytest.mark.parametrize("name", RIGHT, ids=lambda name: Path(name).stem)


@names
@pytest.mark.parametrize("size", [64, 224, 512])
def test_a_chest_film_as_it_should_be_raises_no_doubt(name: str, size: int) -> None:
    assert doubts(seen(name, size)) == ()


@names
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_rotated(name: str, turn: int) -> None:
    assert Doubt(name="rotated", sure=True, turn=90 * turn) in doubts(posed(seen(name), turn=turn))


@names
def test_inverted(name: str) -> None:
    found = doubts(posed(seen(name), inverted=True))
    assert [doubt.name for doubt in found] == ["inverted"]
    assert found[0].sure


@names
def test_rotated_and_inverted(name: str) -> None:
    found = doubts(posed(seen(name), turn=1, inverted=True))
    assert {doubt.name for doubt in found} == {"rotated", "inverted"}
    assert all(doubt.sure for doubt in found)


def test_a_leg_is_no_chest() -> None:
    assert doubts(seen("RG3_UNCR.dcm")) == (Doubt(name="not_chest", sure=True),)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "emri_small.dcm", "MR2_UNCR.dcm"])
def test_slices_are_no_chest_film(name: str) -> None:
    assert "not_chest" in {doubt.name for doubt in doubts(seen(name))}


def test_noise_is_no_chest_film() -> None:
    opened = dicom.open_object(film(1, rows=300, columns=250), Limits())
    found = model_input(opened, PreprocessSpec(size=224))
    assert doubts(found) == (Doubt(name="not_chest", sure=True),)


def test_a_blank_film() -> None:
    place = Placement(x0=0, y0=0, x1=64, y1=64, size=64)
    for value in (0, 7, 255):
        image = np.full((1, 64, 64), value, dtype=np.uint8)
        assert doubts(ModelInput(image=image, placement=place)) == (Doubt(name="blank", sure=True),)


def test_what_it_sees_does_not_depend_on_exposure() -> None:
    found = seen("RG1_UNCR.dcm")
    table = np.sort(np.random.default_rng(0).permutation(256)[:200])[
        np.linspace(0, 199, 256).astype(int)
    ]
    small = np.asarray(found.image[0, ::4, ::4])
    brighter = table.astype(np.uint8)[small]
    assert np.abs(ranks(small) - ranks(brighter)).mean() < 0.01
    assert np.allclose(ranks(255 - small), -ranks(small), atol=1e-6)
    assert view(found).shape == (SIDE, SIDE)
    assert abs(view(found).mean()) < 1e-3


def test_the_same_film_gives_the_same_opinion() -> None:
    views = np.stack([view(seen(name)) for name in RIGHT])
    together, net = bundled()(views), bundled()
    for n, one in enumerate(views):
        alone = net(one[np.newaxis])
        assert np.allclose(alone.kind[0], together.kind[n], atol=1e-5)
        assert np.array_equal(alone.turn, net(one[np.newaxis]).turn)
    assert np.allclose(together.kind.sum(axis=1), 1, atol=1e-5)
    assert (together.kind.argmax(axis=1) == KINDS.index("frontal")).all()


def test_the_weights_are_those_of_the_provenance_and_small() -> None:
    said = json.loads(ROOT.joinpath("provenance.json").read_text())
    data = ROOT.joinpath("weights.npz").read_bytes()
    assert hashlib.sha256(data).hexdigest() == said["weights_sha256"]
    assert len(data) < 200_000
    assert set(thresholds()) == {"not_chest", "not_frontal", "rotated", "inverted", "mirrored"}
    assert min(thresholds().values()) >= 0.9
