"""From film to model input, the same bytes for training and serving."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Extent, Placement, make_grey, make_input, resize

SPEC = PreprocessSpec(size=224)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (224, 224, (0, 0, 224, 224)),
        (448, 224, (56, 0, 168, 224)),
        (1000, 2000, (0, 56, 224, 168)),
        (3, 3000, (0, 111, 224, 112)),
    ],
)
def test_letterbox(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    place = Placement.letterbox(height=height, width=width, size=224)
    assert (place.x0, place.y0, place.x1, place.y1) == box
    out = make_input(np.random.default_rng(0).random((height, width), dtype=np.float32), SPEC)
    outside = out.image[0].copy()
    outside[place.y0 : place.y1, place.x0 : place.x1] = 0
    assert not outside.any(), "nothing outside the film"


def test_the_stretch_ignores_scale_and_offset_of_the_values() -> None:
    film = np.random.default_rng(0).random((300, 260), dtype=np.float32)
    one = make_input(film, SPEC).image
    other = make_input(film * 4095 + 100, SPEC).image
    assert np.abs(one.astype(int) - other).max() <= 1
    assert (one.min(), one.max()) == (0, 255)


def test_brighter_stays_brighter() -> None:
    ramp = np.linspace(0, 1, 224, dtype=np.float32)[None].repeat(224, axis=0)
    row = make_input(ramp, SPEC).image[0, 100].astype(int)
    assert (np.diff(row) >= 0).all()
    assert row[112] == pytest.approx(128, abs=2)


def test_a_constant_film_is_black() -> None:
    assert not make_input(np.full((50, 70), 0.7, dtype=np.float32), SPEC).image.any()


def test_outliers_do_not_squeeze_the_rest() -> None:
    film = np.random.default_rng(0).random((400, 400), dtype=np.float32)
    spiked = film.copy()
    spiked[:4, :4] = 1000.0  # a burnt-in marker
    one, other = make_input(film, SPEC).image, make_input(spiked, SPEC).image
    assert np.abs(one[0, 10:].astype(int) - other[0, 10:]).mean() < 2


def test_padding_neither_bleeds_nor_counts() -> None:
    rng = np.random.default_rng(0)
    film = (0.4 + 0.2 * rng.random((448, 448))).astype(np.float32)
    alone = make_input(film[:, :300], SPEC)
    padding = np.zeros((448, 448), dtype=bool)
    padding[:, 300:] = True
    padded = film.copy()
    padded[padding] = 9.0
    out = make_input(padded, SPEC, padding=padding).image[0]
    assert not out[:, 151:].any(), "padding is black"
    place = alone.placement
    expected = alone.image[0][:, place.x0 : place.x1]
    assert np.abs(out[:, :149].astype(int) - expected[:, :149]).max() <= 3
    nothing = make_input(padded, SPEC, padding=np.ones_like(padding))
    assert not nothing.image.any()


def test_shrinking_is_antialiased() -> None:
    """A checkerboard finer than the output is grey, not a moiré of its own."""
    board = np.indices((1792, 1792)).sum(axis=0) % 2
    half = board.astype(np.float32)
    half[:, :896] = np.linspace(0, 1, 896, dtype=np.float32)
    out = make_input(half, SPEC).image[0].astype(int)
    assert np.ptp(out[20:200, 130:210]) <= 6


def test_the_digest_is_the_specs_identity() -> None:
    # Other bytes from the same spec need a new IMPLEMENTATION; another spec has another digest.
    assert SPEC.digest == "a4fc88ad4401250daf8e3aa19d1740fb25901c26a3356ae99c50344893328595"
    assert PreprocessSpec(size=225).digest != SPEC.digest
    assert PreprocessSpec(size=224, stretch_percentiles=(1, 99)).digest != SPEC.digest


def test_the_bytes_are_pinned() -> None:
    """If this fails, the spec's IMPLEMENTATION has to be raised: old results mean old bytes."""
    film = np.add.outer(np.arange(90.0), np.arange(70.0) ** 1.5).astype(np.float32)
    out = make_input(film, PreprocessSpec(size=32)).image[0]
    assert out[16, 4:28:4].tolist() == PINNED


PINNED = [17, 38, 69, 107, 152, 203]


@pytest.mark.parametrize("percentiles", [(50, 50), (-1, 99), (1, 101), (99, 1)])
def test_impossible_percentiles(percentiles: tuple[float, float]) -> None:
    with pytest.raises(ValidationError):
        PreprocessSpec(size=64, stretch_percentiles=percentiles)


STAGED = PreprocessSpec(size=224, intermediate=512)


def test_an_intermediate_changes_little_and_its_digest_all() -> None:
    rng = np.random.default_rng(3)
    film = rng.random((40, 30), dtype=np.float32).repeat(40, 0).repeat(40, 1)
    direct, staged = make_input(film, SPEC), make_input(film, STAGED)
    assert staged.placement == direct.placement
    assert np.abs(staged.image.astype(int) - direct.image).mean() < 4
    assert SPEC.digest != STAGED.digest
    assert SPEC.stage_digest == SPEC.digest
    other = PreprocessSpec(size=299, intermediate=512, stretch_percentiles=(1, 99))
    assert other.stage_digest == STAGED.stage_digest != STAGED.digest
    reduced = PreprocessSpec(size=224, intermediate=512, decode="reduced")
    assert reduced.stage_digest != STAGED.stage_digest
    assert reduced.decode_side == 1024


def test_specs_without_intermediate_keep_the_digest_they_had() -> None:
    assert SPEC.digest == "a4fc88ad4401250daf8e3aa19d1740fb25901c26a3356ae99c50344893328595"


def test_an_intermediate_smaller_than_the_input_is_refused() -> None:
    with pytest.raises(ValidationError, match="intermediate"):
        PreprocessSpec(size=512, intermediate=299)


def test_the_intermediate_of_a_small_film_is_the_film() -> None:
    film = np.random.default_rng(0).random((90, 120), dtype=np.float32)
    grey = make_grey(film, 512, film=Extent.whole(film))
    assert grey.values.shape == (90, 120)
    assert (grey.values.min(), grey.values.max()) == (0, 65535)
    low, high = film.min(), film.max()
    assert np.abs(grey.values / 65535 - (film - low) / (high - low)).max() < 1e-5


def test_padding_stays_padding_in_the_intermediate() -> None:
    film = np.random.default_rng(0).random((600, 600), dtype=np.float32) + 5
    padding = np.zeros(film.shape, dtype=bool)
    padding[:, :100] = True
    grey = make_grey(film, 300, padding=padding, film=Extent.whole(film))
    assert grey.padded
    assert not grey.values[:, :50].any()
    assert grey.values[:, 50:].min() == 1
    spec = PreprocessSpec(size=100, intermediate=300)
    image = make_input(film, spec, padding=padding).image[0]
    assert not image[:, :16].any()
    assert image[:, 17:].any()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *(
            ((h, w), (round(w * s / max(h, w)), round(h * s / max(h, w))))
            for h, w in [(300, 260), (260, 300), (449, 300), (451, 300), (900, 300), (150, 900)]
            for s in (224, 64)
        ),
        ((300, 260), (260, 100)),
        ((300, 260), (100, 300)),
        ((300, 260), (260, 300)),
        ((300, 260), (500, 640)),
        ((64, 1000), (33, 2)),
        ((1, 7), (3, 1)),
        ((129, 40), (40, 41)),
    ],
)
def test_some_rows_at_a_time_give_the_same_bits(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    film = np.random.default_rng(0).random(shape, dtype=np.float32)
    height, width = shape
    for box in [(0.0, 0.0, float(width), float(height)), (0.25, 0.125, width - 0.5, height - 0.25)]:
        whole = Image.fromarray(film).resize(size, Image.Resampling.BILINEAR, box)
        assert np.array_equal(resize(film, box, size), np.asarray(whole))
