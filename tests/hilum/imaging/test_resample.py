"""Fewer samples, resized as if they were the whole film."""

from __future__ import annotations

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from hilum.dicom import reduced
from hilum.dicom.reduced import Samples
from hilum.imaging import resample as sampling
from hilum.imaging.transform import resize

ROWS, COLUMNS = 611, 437  # odd on purpose
SIZE = (57, 80)
Array = npt.NDArray[np.float32]


def _film(noise: float) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(8)
    coarse = rng.random((12, 9)) * 3000 + 500
    smooth = resize(coarse.astype(np.float32), (0, 0, 9, 12), (COLUMNS, ROWS))
    return np.rint(smooth + rng.normal(0, noise, smooth.shape)).astype(np.uint16)


def _whole(film: npt.NDArray[np.uint16]) -> Array:
    return resize(film.astype(np.float32), (0.0, 0.0, COLUMNS, ROWS), SIZE)


def _samples(kind: str, step: int) -> Samples:
    return Samples(kind=kind, step=step, rows=ROWS, columns=COLUMNS)  # type: ignore[arg-type]


def _low_pass(film: npt.NDArray[np.uint16], level: int, *, reversible: bool) -> Array:
    frame = imagecodecs.jpeg2k_encode(
        film,
        level=0 if reversible else 300,
        codecformat="j2k",
        bitspersample=12,
        reversible=reversible,
    )
    words = reduced._low_pass(bytes(frame), film.shape, level)
    values = reduced._unshifted(words, 12, signed=False).astype(np.float32)
    return values - reduced._rounded_up(level) if reversible else values


def test_every_pixel_gives_what_the_whole_film_gives() -> None:
    film = _film(200)
    same = sampling.resize(film.astype(np.float32), _samples("means", 1), SIZE)
    np.testing.assert_allclose(same, _whole(film), rtol=1e-5)
    larger = (COLUMNS + 60, ROWS + 80)
    grown = sampling.resize(film.astype(np.float32), _samples("means", 1), larger)
    np.testing.assert_allclose(
        grown, resize(film.astype(np.float32), (0, 0, COLUMNS, ROWS), larger), rtol=1e-4
    )


@pytest.mark.parametrize("noise", [0.0, 40.0])
@pytest.mark.parametrize(
    ("kind", "level", "smooth", "noisy"),
    [
        ("means", 1, 0.5, 2.5),
        ("means", 2, 4, 6),
        ("5/3", 1, 1, 2),
        ("5/3", 2, 4, 6),
        ("9/7", 1, 0.5, 1.5),
        ("9/7", 2, 1.5, 3),
    ],
)
def test_fewer_samples_give_nearly_the_same(
    kind: str, level: int, smooth: float, noisy: float, noise: float
) -> None:
    """In units of 1 of 4096 stored values: 16 are one grey level of the model's input."""
    film = _film(noise)
    if kind == "means":
        samples = np.asarray(reduced.block_means(film, 2**level), dtype=np.float32)
    else:
        samples = _low_pass(film, level, reversible=kind == "5/3")
    difference = sampling.resize(samples, _samples(kind, 2**level), SIZE) - _whole(film)
    assert abs(difference.mean()) < 0.6, "what rounding moves, see reduced._rounded_up"
    assert np.quantile(np.abs(difference), 0.999) < (noisy if noise else smooth)


def test_resizing_the_samples_by_themselves_is_worse() -> None:
    film = _film(40)
    samples = _low_pass(film, 2, reversible=True)
    folded = sampling.resize(samples, _samples("5/3", 4), SIZE) - _whole(film)
    box = tuple((u - 0.5) / 4 + 0.5 for u in (0, 0, COLUMNS, ROWS))
    grown = np.pad(samples, ((0, 1), (0, 1)), mode="edge")
    alone = resize(grown, box, SIZE) - _whole(film)  # type: ignore[arg-type]
    assert np.abs(folded).mean() < 0.75 * np.abs(alone).mean()


def test_weights_sum_to_one_up_to_the_edges() -> None:
    flat = np.ones((ROWS, COLUMNS), dtype=np.float32)
    for kind, step in [("means", 7), ("5/3", 4), ("9/7", 8), ("5/3", 16)]:
        few = flat[: -(-ROWS // step), : -(-COLUMNS // step)]
        np.testing.assert_allclose(sampling.resize(few, _samples(kind, step), SIZE), 1, rtol=1e-5)
