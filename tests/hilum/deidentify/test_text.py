"""Burnt-in text is found and covered; a film without text stays as it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError
from pydicom.data import get_testdata_file

from hilum import dicom
from hilum.deidentify import text
from hilum.deidentify.text import Region
from hilum.imaging.rendering import Heat, Look, draw, preview
from hilum.settings import DeidentifySettings, Limits

NAME = "DOE^JANE 1950-01-01"
SAMPLES = sorted((Path(__file__).parents[3] / "models/samples").glob("*.dcm"))


@cache
def film(name: str = "RG1_J2KI.dcm") -> np.ndarray:
    path = name if name.startswith("/") else get_testdata_file(name, download=False)
    return preview(dicom.open_film(Path(str(path)).read_bytes(), Limits()), 1024)


def written(at: tuple[int, int], *, size: int, tone: int) -> tuple[np.ndarray, np.ndarray]:
    """RG1 with a name on it, and where its letters are."""
    plain = (film() * 255).astype(np.uint8)
    image = Image.fromarray(plain)
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(image).text(at, NAME, fill=tone, font=font)
    marked = np.asarray(image)
    return marked.astype(np.float32) / 255, np.abs(marked.astype(int) - plain) > 60


@pytest.mark.parametrize("size", [11, 16, 24, 36])
@pytest.mark.parametrize(
    ("at", "tone"), [((40, 20), 255), ((300, 960), 0), ((350, 900), 0), ((30, 40), 255)]
)
def test_names_are_found_and_covered(at: tuple[int, int], size: int, tone: int) -> None:
    marked, letters = written(at, size=size, tone=tone)
    if not letters.any():
        pytest.fail("the name is invisible there, choose another place")
    covered = text.mask(marked)
    changed = np.abs(covered - marked) > 0.1
    assert (changed & letters).sum() > 0.93 * letters.sum()
    assert (covered != marked).mean() < 0.06, "and little else"


@pytest.mark.parametrize("name", ["RG1_J2KI.dcm", *map(str, SAMPLES)], ids=lambda n: Path(n).stem)
def test_a_film_without_text_stays_as_it_is(name: str) -> None:
    assert text.find(film(name)) == ()


def test_the_marker_of_a_side_is_text_too() -> None:
    (region,) = text.find(film("RG3_UNCR.dcm"))
    assert 0.6 < region.x0 < region.x1 < 0.75
    assert 0.75 < region.y0 < region.y1 < 0.9


def test_edges_of_shutters_are_no_text() -> None:
    framed = film().copy()
    framed[:60], framed[:, :80], framed[-40:] = 0, 1, 0
    turned = np.asarray(Image.fromarray(framed).rotate(7, fillcolor=0.0))
    for shown in (framed, turned, framed[:40, :40]):
        # Where two edges meet at a small angle, a bit of it may be taken for a letter.
        assert sum((r.x1 - r.x0) * (r.y1 - r.y0) for r in text.find(shown)) < 0.002


def test_declared_regions() -> None:
    shown = np.full((100, 200), 0.25, dtype=np.float32)
    shown[:10] = np.random.default_rng(0).random((10, 200))
    out = text.mask(shown, [(0.0, 0.0, 1.0, 0.1), (0.5, 0.5, 0.6, 0.6)])
    assert np.ptp(out[:10]) == 0
    assert np.array_equal(out[10:], shown[10:])
    whole = text.cover(shown, [Region(x0=0, y0=0, x1=1, y1=1)])
    assert not whole.any()
    for wrong in ((0.5, 0, 0.5, 1), (0, 0, 1, 1.5), (-0.1, 0, 1, 1)):
        with pytest.raises(ValidationError):
            DeidentifySettings(regions=(wrong,))


def test_an_overlay_is_masked_where_it_is_asked_for() -> None:
    path = SAMPLES[0]
    heat = Heat(grid=np.zeros((4, 4), dtype=np.float32), probability=0.0, input_size=64)
    plain = Look(max_side=256, caption=None)
    region = Look(max_side=256, caption=None, mask_text=True, regions=((0.0, 0.0, 0.2, 0.2),))
    one, two = (draw(path.read_bytes(), heat, look, Limits()) for look in (plain, region))
    assert one != two
    assert draw(path.read_bytes(), heat, plain, Limits()) == one
