"""Manifests and prepared data: the serving preprocessing, once, patient-safe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hilum.errors import DataError
from hilum.labels import SYNTHETIC
from hilum.preprocess import PreprocessSpec, prepare
from trainer import data, localisation, manifest
from trainer.augment import augment, shrink
from trainer.config import Augmentation
from trainer.errors import BadImagesError
from trainer.manifest import Record

SPEC = PreprocessSpec(size=48)


def test_what_the_model_sees_is_what_serving_makes(dataset: Path, tmp_path: Path) -> None:
    splits = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 36,
        "val": 12,
        "test": 12,
    }
    for split in splits.values():
        for n, record in enumerate(split.records):
            with Image.open(dataset.parent / record.uri) as image:
                pixels = np.asarray(image, dtype=np.float32) / 255
            assert np.array_equal(split.images[n], prepare(pixels, SPEC).image)


def test_the_second_time_nothing_is_decoded(dataset: Path, tmp_path: Path) -> None:
    first = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    for image in dataset.parent.glob("*.png"):
        image.unlink()
    again = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    assert np.array_equal(first["train"].images, again["train"].images)
    with pytest.raises(BadImagesError, match=r"1 of 60 .* \(1 storage\.object_missing\)"):
        data.load(dataset, SYNTHETIC, PreprocessSpec(size=40), cache_dir=tmp_path)


def test_manifest_round_trip(dataset: Path) -> None:
    records = manifest.read(dataset, SYNTHETIC)
    unknown = dataclasses.replace(records[0], targets=(float("nan"), *records[0].targets[1:]))
    copy = dataset.with_name("copy.csv")
    manifest.write(copy, [unknown, *records[1:]], SYNTHETIC)
    again = manifest.read(copy, SYNTHETIC)
    assert np.isnan(again[0].targets[0])
    assert [r.targets for r in again[1:]] == [r.targets for r in records[1:]]
    assert [r.boxes for r in again] == [r.boxes for r in records]


def _record(n: int, **changes: object) -> Record:
    fields = {"uri": f"{n}.png", "patient": f"p{n}", "split": "train", "targets": (0.0,) * 6}
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "lists no image"),
        ([_record(0), _record(1, uri="0.png")], "1 images twice"),
        ([_record(0), _record(1, patient="p0", split="test")], "1 patients are in more than one"),
        ([_record(0, split="dev")], "split must be one of"),
        ([_record(0, targets=(2.0,) * 6)], "neither empty nor within"),
    ],
)
def test_manifests_that_cannot_be_trusted(
    tmp_path: Path, records: list[Record], message: str
) -> None:
    path = tmp_path / "manifest.csv"
    manifest.write(path, records, SYNTHETIC)
    with pytest.raises(DataError, match=message):
        manifest.read(path, SYNTHETIC)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_what_is_read(dataset: Path, suffix: str) -> None:
    soft = (0.7, float("nan"), 0.0, 1.0, 0.0, 0.0)
    first = _record(0, targets=soft, view="AP", sex="F", age=61.5, site="north, old wing")
    records = [first, *(_record(n) for n in range(1, 5))]
    path = dataset.with_name(f"odd{suffix}")
    manifest.write(path, records, SYNTHETIC)
    assert str(manifest.read(path, SYNTHETIC)) == str(records)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.parquet", b"PAR1 rubbish", "is not a Parquet file"),
        ("m.csv", b"\xff\xfe\x00rubbish", "is not CSV"),
        ("m.csv", b"", "does not fit schema"),
    ],
)
def test_files_that_are_no_manifest(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        manifest.read(tmp_path / name, SYNTHETIC)


def test_a_line_cut_short(dataset: Path) -> None:
    lines = dataset.read_text().splitlines()
    dataset.write_text("\n".join([*lines[:-1], lines[-1][:12]]))
    with pytest.raises(DataError, match="line 61 has another number of columns"):
        manifest.read(dataset, SYNTHETIC)


def test_values_do_not_reach_the_error(dataset: Path) -> None:
    dataset.write_text(dataset.read_text().replace(",0,", ",Jane Doe,", 1))
    with pytest.raises(DataError, match="line 2: age, a label or the boxes") as caught:
        manifest.read(dataset, SYNTHETIC)
    assert "Jane" not in str(caught.value)


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        manifest.write(tmp_path / "none" / "m.csv", [_record(0)], SYNTHETIC)


def test_manifest_of_another_schema(tmp_path: Path, dataset: Path) -> None:
    text = dataset.read_text().replace("Effusion", "Edema", 1)
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(DataError, match="does not fit schema"):
        manifest.read(tmp_path / "other.csv", SYNTHETIC)


def test_batches_are_a_permutation() -> None:
    rows = np.concatenate(list(data.batches(41, 8, np.random.default_rng(0))))
    assert len(rows) == 40, "a last batch of one cannot be normalised"
    assert len(set(rows.tolist())) == 40


def test_masks_follow_the_boxes(dataset: Path, tmp_path: Path) -> None:
    train = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    masks = localisation.masks(train, SYNTHETIC)
    effusion, normal = SYNTHETIC.index("Effusion"), SYNTHETIC.index("No Finding")
    for n, record in enumerate(train.records):
        assert (masks[n, normal] == -1).all()
        expected = np.zeros((localisation.SIDE, localisation.SIDE), dtype=np.int8)
        if record.targets[effusion]:
            # The box 4 … 24 × 36 … 56 of a 64×64 film, in 28 cells.
            expected[16:24, 2:10] = 1
        assert np.array_equal(masks[n, effusion], expected)


def test_a_finding_without_a_box_teaches_nothing(dataset: Path, tmp_path: Path) -> None:
    records = [dataclasses.replace(r, boxes=()) for r in manifest.read(dataset, SYNTHETIC)]
    path = dataset.with_name("unboxed.csv")
    manifest.write(path, records, SYNTHETIC)
    train = data.load(path, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    masks = localisation.masks(train, SYNTHETIC)
    k = SYNTHETIC.index("Effusion")
    for n, record in enumerate(train.records):
        assert set(np.unique(masks[n, k])) == ({-1} if record.targets[k] else {0})


def test_augmentation_moves_boxes_with_the_film_and_never_mirrors() -> None:
    image = torch.zeros((16, 1, 112, 112), dtype=torch.uint8)
    image[:, :, 16:48, 8:40] = 255
    masks = torch.zeros((16, 1, 28, 28))
    masks[:, :, 4:12, 2:10] = 1
    strong = Augmentation(rotate_deg=12, scale=0.15, shift=0.08, contrast=0, brightness=0, noise=0)
    moved, boxes = augment(image, masks, strong, torch.Generator().manual_seed(0))
    assert boxes is not None
    bright = torch.nn.functional.avg_pool2d(moved.float() / 255, 4) > 0.5
    overlap = ((boxes > 0.5) & bright).sum() / ((boxes > 0.5) | bright).sum()
    assert overlap > 0.85
    assert len({tuple(m.flatten().tolist()) for m in moved}) == 16, "each in its own way"
    columns = torch.nonzero(bright)[:, 3].float().mean()
    assert columns < 14, "left stays left"


def test_no_augmentation_changes_nothing() -> None:
    image = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    none = Augmentation(rotate_deg=0, scale=0, shift=0, contrast=0, brightness=0, noise=0)
    same, _ = augment(image, None, none, torch.Generator().manual_seed(0))
    assert (same.int() - image.int()).abs().max() <= 1
    assert torch.equal(shrink(image, 32), image)
    assert shrink(image, 16).shape == (3, 1, 16, 16)
