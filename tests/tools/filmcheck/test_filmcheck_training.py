"""What trains the film check: the same network in torch and in numpy, pictures, poses, figures."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from hilum.filmcheck import Doubt
from hilum.filmcheck.network import KINDS, Network
from hilum.filmcheck.view import SIDE
from tools.filmcheck import data, distort, evaluate, others, training
from tools.filmcheck.__main__ import page
from tools.filmcheck.data import Films, Views
from tools.filmcheck.distort import Pose
from tools.filmcheck.network import FilmNetwork, folded

PAGE = Path(__file__).parents[3] / "benchmarks/results/film-check.md"


def test_numpy_gives_what_torch_gives() -> None:
    torch.manual_seed(0)
    network = FilmNetwork()
    views = np.random.default_rng(0).uniform(-1, 1, (5, SIDE, SIDE)).astype(np.float32)
    with torch.no_grad():
        for _ in range(3):  # so that the running statistics are not those of the start
            network(torch.from_numpy(views * 2 + 0.3)[:, None])
        network.eval()
        out = network(torch.from_numpy(views)[:, None])
    found = Network(folded(network))(views)
    assert np.allclose(found.kind, out[:, :3].softmax(1).numpy(), atol=2e-3)
    assert np.allclose(found.turn, out[:, 3:7].softmax(1).numpy(), atol=2e-3)
    assert np.allclose(found.inverted, out[:, 7:9].softmax(1)[:, 1].numpy(), atol=2e-3)
    assert np.allclose(found.mirrored, out[:, 9:11].softmax(1)[:, 1].numpy(), atol=2e-3)


def test_poses_are_what_the_check_undoes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    for turn in range(4):
        seen = distort.plain(image, Pose(turn=turn, inverted=True))
        assert np.allclose(np.rot90(-seen, -turn), distort.plain(image, Pose()), atol=1e-6)


def test_drawn_pictures_differ_and_fill_the_scale() -> None:
    rng = np.random.default_rng(0)
    made = [others.drawn(rng) for _ in range(40)]
    assert len({image.tobytes() for image in made}) == 40
    assert all(image.shape == (96, 96) and np.ptp(image) > 150 for image in made)
    again = others.drawn(np.random.default_rng(0))
    assert np.array_equal(again, made[0])


def test_it_learns(tmp_path: Path) -> None:
    """Two kinds that a child can tell apart, in a few steps."""
    rng = np.random.default_rng(0)
    y = np.linspace(0, 255, 96)[:, None].repeat(96, 1)
    films = np.stack([y, rng.integers(0, 256, (96, 96))]).astype(np.uint8)
    kinds = np.array([KINDS.index("frontal"), KINDS.index("other")])
    found = Films(image=films, kind=kinds)
    chosen = rng.integers(0, 2, 256)
    poses = [Pose(turn=int(turn)) for turn in rng.integers(0, 4, 256)]
    seen = [distort.plain(films[n], pose) for n, pose in zip(chosen, poses, strict=True)]
    zeros = np.zeros(256, dtype=np.int64)
    views = Views(
        view=np.array(seen, dtype=np.float16),
        kind=kinds[chosen],
        turn=np.array([pose.turn for pose in poses]),
        inverted=zeros,
        mirrored=zeros,
    )
    torch.manual_seed(0)
    before = training.loss(FilmNetwork().eval(), views, np.arange(256)).item()
    network = training.train(views, seed=0, say=lambda _: None)
    assert training.loss(network, views, np.arange(256)).item() < 0.8 * before
    assert found.kind.tolist() == kinds.tolist()


def test_the_real_radiographs_are_in_no_set() -> None:
    named = {name for part in data.PICTURES.values() for name in part}
    assert not any(name.startswith("RG") for name in named)
    assert len(named) == sum(map(len, data.PICTURES.values())), "no picture in two sets"
    real = data.real_films()
    assert set(real) == {"RG1", "RG3"}
    assert real["RG1"][20:70, 20:70].mean() < 200


def test_counting() -> None:
    sure, maybe = Doubt(name="inverted", sure=True), Doubt(name="not_chest", sure=False)
    found = evaluate.row("films", [(), (maybe,), (maybe, sure), (sure,)])
    assert (found.count, found.refused, found.flagged, found.passed) == (4, 2, 1, 1)
    assert found.by == {"inverted": 2}
    low, high = evaluate.interval(0, 1000)
    assert low == 0
    assert high == pytest.approx(0.00368, abs=1e-5)
    assert evaluate.interval(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert evaluate.interval(10, 10)[1] == 1


def test_the_page_has_the_figures_of_the_committed_network(tmp_path: Path) -> None:
    said = json.loads(files("hilum.filmcheck").joinpath("provenance.json").read_text())
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    page(copy, said)
    assert copy.read_text() == PAGE.read_text()
    good = said["synthetic"][0]
    assert good["count"] >= 2000
    assert good["refused"] / good["count"] < 0.005
