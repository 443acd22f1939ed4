"""Pointing game, IoU and their baselines against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluation.localisation import Localisation, localise
from trainer.manifest import Box


def _box(x0: float, y0: float, x1: float, y1: float) -> Box:
    return Box(label="x", x0=x0, y0=y0, x1=x1, y1=y1)


def test_pointing_game_by_hand() -> None:
    hot = np.zeros((7, 7), dtype=np.float32)
    hot[1, 5] = 1.0  # upper right; its centre is at (176, 48) of 224
    right, middle = _box(160, 30, 200, 60), _box(100, 100, 130, 130)
    size = (224, 224)
    found = localise(
        [hot, hot, np.zeros_like(hot)], [[right], [middle], [middle]], [size] * 3, size=224
    )
    assert found is not None
    assert found.pointing_images == 3
    assert found.pointing_game == pytest.approx(1 / 3)
    assert found.pointing_centre == pytest.approx(2 / 3)
    assert localise([], [], [], size=224) is None


def test_pointing_game_undoes_the_letterbox() -> None:
    # A film twice as wide as high fills rows 56 … 168 of the input: cell row 2 is its top.
    hot = np.zeros((7, 7), dtype=np.float32)
    hot[2, 0] = 1.0
    found = localise([hot], [[_box(0, 20, 60, 80)]], [(224, 448)], size=224)
    assert found is not None
    assert found.pointing_game == 1


def test_iou_by_hand() -> None:
    # Half of the map at its maximum, the upper one; upsampling keeps >= 1/2 down to its middle.
    half = np.zeros((8, 8), dtype=np.float32)
    half[:4] = 1.0
    size = (64, 64)
    upper, lower = _box(0, 0, 64, 32), _box(0, 32, 64, 64)
    quarter = _box(0, 0, 32, 32)
    found = localise([half, half, half], [[upper], [lower], [quarter]], [size] * 3, size=64)
    assert found is not None
    assert found.iou == pytest.approx((1 + 0 + 0.5) / 3, abs=0.02)
    assert found.iou_found == pytest.approx(2 / 3)
    # Two boxes count as their union.
    both = localise([half], [[quarter, _box(32, 0, 64, 32)]], [size], size=64)
    assert both is not None
    assert both.iou == pytest.approx(1, abs=0.02)


def test_centre_box_has_the_mean_size_of_the_boxes() -> None:
    grid = np.ones((4, 4), dtype=np.float32)
    centred = _box(24, 16, 40, 48)
    found = localise([grid], [[centred]], [(64, 64)], size=64)
    assert found is not None
    assert found.iou_centre == 1
    # The mean of a box of the whole film and one of half its sides, both central: 3/4 of each.
    pair = localise(
        [grid, grid], [[_box(0, 0, 64, 64)], [_box(16, 16, 48, 48)]], [(64, 64)] * 2, size=64
    )
    assert pair is not None
    assert pair.iou_centre == pytest.approx((9 / 16 + 4 / 9) / 2, abs=1e-9)
    # A map that is warm all over covers the box with everything else.
    assert pair.iou == pytest.approx((1 + 1 / 4) / 2)


def test_a_map_without_heat_finds_nothing() -> None:
    cold = np.zeros((7, 7), dtype=np.float32)
    found = localise([cold], [[_box(0, 0, 64, 64)]], [(64, 64)], size=64)
    assert isinstance(found, Localisation)
    assert (found.pointing_game, found.iou, found.iou_found) == (0, 0, 0)


def test_large_films_are_measured_in_their_own_pixels() -> None:
    hot = np.zeros((8, 8), dtype=np.float32)
    hot[0, 7] = 1.0
    # 3000×2400, as wide as the letterbox leaves it: 51 of 64 columns, the last cell is padding.
    found = localise([hot], [[_box(2000, 0, 2400, 400)]], [(3000, 2400)], size=64)
    assert found is not None
    assert found.pointing_game == 1
