"""Manifests and prepared data: the serving preprocessing, once, patient-safe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import make_input
from hilum.packages.labels import SYNTHETIC
from trainer import data, manifest
from trainer.errors import BadImagesError, DataError
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
            assert np.array_equal(split.images[n], make_input(pixels, SPEC).image)


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
        ([], "lists no films"),
        ([_record(0), _record(1, uri="0.png")], "1 films twice"),
        ([_record(0), _record(1, patient="p0", split="test")], "1 patients are in more than one"),
        ([_record(0, split="dev")], "split must be one of"),
        ([_record(0, targets=(2.0,) * 6)], "must be empty or a number"),
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
    with pytest.raises(DataError, match="line 61 does not have as many columns"):
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
