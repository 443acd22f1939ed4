"""The data side of training: what the training cache saves, and what it keeps in memory.

- ``cached_epoch``: time that the data of an epoch takes (manifest, films to batches of tensors),
  the second epoch against the first, JPEG 2000 films of a digital detector's size.
- ``loader_memory``: peak resident memory of a process that prepares a data set, and of one that
  reads epochs of it, with 20,000 images against 2,000.

``benchmarks.training`` prints both beside its own claim; ``python -m benchmarks.loading`` alone.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from benchmarks import films
from benchmarks.report import Line, machine
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from trainer import data, manifest
from trainer.manifest import Record, Split

SIZE: Final = 224
BATCH: Final = 32
CACHE_TARGET: Final = 5.0
# Ten times the images may need at most a tenth more memory.
FLAT_TARGET: Final = 0.9


def measure(*, quick: bool = False) -> Iterator[Line]:
    """Yield both claims as soon as they are measured."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest_path = _film_set(folder / "films", count=6 if quick else 24)
        for decode in ("exact", "reduced"):
            spec = PreprocessSpec.model_validate({"size": SIZE, "decode": decode})
            yield cached_epoch(manifest_path, spec, folder / f"cache-{decode}")
    yield from loader_memory(200, 2_000) if quick else loader_memory(2_000, 20_000)


def cached_epoch(path: Path, spec: PreprocessSpec, cache: Path) -> Line:
    """Compare an epoch that decodes with one that does not."""
    first, second = (_epoch(path, spec, cache) for _ in range(2))
    return Line(
        claim="cached_epoch",
        case=f"JPEG 2000 {films.ROWS}×{films.COLUMNS} to {spec.size}, decode {spec.decode}",
        value=second * 1000,
        peer="epoch 1",
        peer_value=first * 1000,
        ratio=first / second,
        target=CACHE_TARGET,
        unit="ms/image",
    )


def loader_memory(few: int, many: int) -> Iterator[Line]:
    """Measure preparing and reading prepared images, each in its own process."""
    peaks: dict[tuple[str, int], float] = {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            path = _small_set(folder / "films", count)
            for phase in ("preparing", "epochs"):
                peaks[phase, count] = _peak(path, folder / "cache")
    for phase in ("preparing", "epochs"):
        yield Line(
            claim="loader_memory",
            case=f"{phase}, {many} images of {SIZE}² ({many * SIZE**2 / 1e6:.0f} MB)",
            value=peaks[phase, many],
            peer=f"{few} images",
            peer_value=peaks[phase, few],
            ratio=peaks[phase, few] / peaks[phase, many],
            target=FLAT_TARGET,
            unit="MiB",
        )


def epoch(path: Path, spec: PreprocessSpec, cache: Path) -> int:
    """Read every training image once, in random order, in batches; returns their number."""
    train = data.load(path, SYNTHETIC, spec, cache_dir=cache, processes=1)["train"]
    order = np.random.default_rng(0).permutation(len(train))
    seen = 0
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        images = torch.from_numpy(train.images[rows])
        targets = torch.from_numpy(train.targets[rows])
        assert len(targets) == len(images.float())
        seen += len(rows)
    return seen


def _epoch(path: Path, spec: PreprocessSpec, cache: Path) -> float:
    """Seconds per image."""
    start = time.perf_counter()
    seen = epoch(path, spec, cache)
    return (time.perf_counter() - start) / seen


def _peak(path: Path, cache: Path) -> float:
    """The peak MiB of a process that loads the data set and reads two epochs."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loader_peak", str(path), str(cache)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 2**20


def _film_set(folder: Path, count: int) -> Path:
    """Write ``count`` different JPEG 2000 films and their data-set table."""
    import imagecodecs

    folder.mkdir(parents=True)
    values = films.pixels(films.BITS)
    dataset = pydicom.dcmread(io.BytesIO(films.film("j2k")))
    assert dataset.file_meta.TransferSyntaxUID == JPEG2000Lossless
    names = []
    for n in range(count):
        moved = np.ascontiguousarray(np.roll(values, n, axis=1))
        encoded = imagecodecs.jpeg2k_encode(
            moved, level=0, codecformat="j2k", bitspersample=films.BITS
        )
        dataset.PixelData = encapsulate([bytes(encoded)])
        names.append(f"{n}.dcm")
        dataset.save_as(folder / names[-1])
    return _manifest(folder, names)


def _small_set(folder: Path, count: int) -> Path:
    """Write ``count`` different PNG films of 64×64 and their data-set table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = []
    for n in range(count):
        grey = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        names.append(f"{n}.png")
        Image.fromarray(grey).save(folder / names[-1], compress_level=0)
    return _manifest(folder, names)


def _manifest(folder: Path, names: list[str]) -> Path:
    """Put all films but the last two into the training split."""
    ends: dict[int, Split] = {len(names) - 2: "val", len(names) - 1: "test"}
    records = [
        Record(
            uri=name,
            patient=name,
            split=ends.get(n, "train"),
            targets=(1.0,) * len(SYNTHETIC.labels),
        )
        for n, name in enumerate(names)
    ]
    manifest.write(folder / "manifest.csv", records, SYNTHETIC)
    return folder / "manifest.csv"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller films")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    for line in measure(quick=arguments.quick):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
