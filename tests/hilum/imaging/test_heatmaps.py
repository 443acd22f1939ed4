"""Heat lands where the model looked, and shows no more than the model says."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hilum.imaging import heatmaps
from hilum.imaging.transform import Placement


@pytest.mark.parametrize(("height", "width"), [(700, 700), (500, 900), (900, 333)])
@pytest.mark.parametrize(("i", "j"), [(3, 3), (2, 4), (4, 2)])
def test_a_hot_cell_lands_where_it_is_after_the_letterbox(
    height: int, width: int, i: int, j: int
) -> None:
    grid = np.zeros((7, 7), dtype=np.float32)
    grid[i, j] = 5.0
    place = Placement.letterbox(height=height, width=width, size=224)
    heat = heatmaps.upsample(grid, place, height, width)
    assert heat.shape == (height, width)
    # The cell's centre in the input, and from there on the film.
    x = ((j + 0.5) * 32 - place.x0) * width / (place.x1 - place.x0)
    y = ((i + 0.5) * 32 - place.y0) * height / (place.y1 - place.y0)
    assert 0 <= x < width
    assert 0 <= y < height
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (column + 0.5, row + 0.5) == (pytest.approx(x, abs=1.5), pytest.approx(y, abs=1.5))
    # Half as hot half a cell away, where that is still film.
    step = round(16 * width / (place.x1 - place.x0))
    if column + step < width:
        assert heat[row, column + step] == pytest.approx(2.5, rel=0.1)
    assert heat.max() == pytest.approx(5.0, rel=0.02)


def test_a_flat_map_stays_flat() -> None:
    grid = np.full((7, 7), 2.0, dtype=np.float32)
    place = Placement.letterbox(height=300, width=200, size=224)
    assert np.allclose(heatmaps.upsample(grid, place, 300, 200), 2.0)


def _image(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_opacity_follows_the_probability() -> None:
    film = np.full((60, 80), 0.5, dtype=np.float32)
    heat = np.zeros((60, 80), dtype=np.float32)
    heat[20:30, 10:20] = 1e-4  # tiny, but the map's maximum: it must not be stretched to full
    plain = _image(heatmaps.overlay(film, np.zeros_like(heat), probability=1.0))
    assert np.ptp(plain) == 0
    change = [
        int(np.abs(_image(heatmaps.overlay(film, heat, probability=p)) - plain).max())
        for p in (0.0, 0.01, 0.5, 1.0)
    ]
    assert change[0] == 0
    assert change[1] <= 2, "a label that is not found shows no heat"
    assert change[1] < change[2] < change[3]
    hot = np.abs(_image(heatmaps.overlay(film, heat, probability=1.0)) - plain).sum(axis=2)
    rows, columns = np.nonzero(hot)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 29, 10, 19)


def test_a_caption_goes_below_the_film_not_over_it() -> None:
    film = np.full((90, 360), 0.5, dtype=np.float32)
    heat = np.zeros_like(film)
    plain = _image(heatmaps.overlay(film, heat, probability=0.2))
    noted = _image(heatmaps.overlay(film, heat, probability=0.2, caption="not for clinical use"))
    assert np.array_equal(noted[:90], plain)
    band = noted[90:]
    assert band.shape[0] >= 15
    assert band.max() > 150, "something is written there"
