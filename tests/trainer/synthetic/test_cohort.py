"""The cohort on disk: reproducible, labelled, its patients in one split each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.packages.labels import SYNTHETIC
from trainer import manifest
from trainer.manifest import Record
from trainer.synthetic import cohort

IMAGES = 40  # seven patients: enough for three splits
SIDE = 96


def _digests(folder: Path) -> dict[str, str]:
    files = [folder / "manifest.csv", *sorted((folder / "images").iterdir())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, wheel_cache: Path) -> Path:
    path = tmp_path_factory.mktemp("cohort")
    cohort.generate(path, images=IMAGES, seed=5, processes=1, side=SIDE, cache_dir=wheel_cache)
    return path


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    return manifest.read(folder / "manifest.csv", SYNTHETIC)


def test_the_same_seed_gives_the_same_bytes_in_other_processes(
    folder: Path, wheel_cache: Path, tmp_path: Path
) -> None:
    cohort.generate(tmp_path, images=12, seed=5, processes=2, side=SIDE, cache_dir=wheel_cache)
    again, first = _digests(tmp_path), _digests(folder)
    images = [name for name in again if name.endswith(".png")]
    assert len(images) == 12
    assert {name: again[name] for name in images} == {name: first[name] for name in images}


def test_no_patient_is_in_two_splits(records: list[Record]) -> None:
    splits = defaultdict(set)
    for record in records:
        splits[record.patient].add(record.split)
    assert {len(found) for found in splits.values()} == {1}
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}


def test_every_finding_has_its_box_and_it_lies_on_the_film(
    folder: Path, records: list[Record]
) -> None:
    labels = SYNTHETIC.labels
    seen = set()
    for record in records:
        present = {label for label, t in zip(labels, record.targets, strict=True) if t == 1}
        assert {box.label for box in record.boxes} | {"No Finding"} == present | {"No Finding"}
        assert ("No Finding" in present) == (present == {"No Finding"})
        with Image.open(folder / record.uri) as image:
            width, height = image.size
            assert max(image.size) == SIDE
            pixels = np.asarray(image)
        assert pixels.dtype == np.uint16
        assert pixels.std() > 0.05 * 65535, "a film shows something"
        for box in record.boxes:
            seen.add(box.label)
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height
    assert seen == set(labels) - {"No Finding"}


def test_another_seed_gives_other_films_and_an_interrupted_run_leaves_no_manifest(
    folder: Path, wheel_cache: Path, tmp_path: Path
) -> None:
    make = partial(
        cohort.generate, tmp_path, images=1, processes=1, side=SIDE, cache_dir=wheel_cache
    )
    make(seed=6)
    assert _digests(tmp_path)["00000-0.png"] != _digests(folder)["00000-0.png"]

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(seed=5, progress=stop)
    assert not (tmp_path / "manifest.csv").exists()
