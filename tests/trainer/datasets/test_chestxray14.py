"""ChestX-ray14 from its real tables, to the image."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hilum.packages.labels import CHESTXRAY14
from trainer import wheels
from trainer.datasets import chestxray14
from trainer.datasets.records import present
from trainer.errors import DataError
from trainer.manifest import Record

# Images of each label in the published release (Wang et al. 2017, and its data set's own page).
PUBLISHED = {
    "Infiltration": 19_894,
    "Effusion": 13_317,
    "Atelectasis": 11_559,
    "Nodule": 6_331,
    "Mass": 5_782,
    "Pneumothorax": 5_302,
    "Consolidation": 4_667,
    "Pleural_Thickening": 3_385,
    "Cardiomegaly": 2_776,
    "Emphysema": 2_516,
    "Edema": 2_303,
    "Fibrosis": 1_686,
    "Pneumonia": 1_431,
    "Hernia": 227,
}


@pytest.fixture(scope="module")
def entries(table_cache: Path) -> list[Record]:
    return chestxray14.entries(wheels.table_rows("Data_Entry_2017_v2020", table_cache))


def test_counts_are_those_of_the_release(entries: list[Record]) -> None:
    assert len(entries) == chestxray14.IMAGES == 112_120
    assert len({entry.patient for entry in entries}) == chestxray14.PATIENTS == 30_805
    assert Counter(label for entry in entries for label in present(entry, CHESTXRAY14)) == PUBLISHED
    findings = Counter(min(4, int(sum(entry.targets))) for entry in entries)
    assert findings == {0: 60_361, 1: 30_963, 2: 14_306, 3: 4_856, 4: 1_634}


def test_views_sex_and_age(entries: list[Record]) -> None:
    assert Counter(entry.view for entry in entries) == {"PA": 67_310, "AP": 44_810}
    assert Counter(entry.sex for entry in entries) == {"M": 63_340, "F": 48_780}
    assert sum(entry.age < 18 for entry in entries) == 5_402
    edema = Counter(entry.view for entry in entries if "Edema" in present(entry, CHESTXRAY14))
    assert round(100 * edema["PA"] / 67_310, 2) == 0.41
    assert round(100 * edema["AP"] / 44_810, 2) == 4.52


def test_boxes_and_the_one_label_spelled_otherwise(table_cache: Path) -> None:
    found = chestxray14.boxes(wheels.table_rows("BBox_List_2017", table_cache))
    assert len(found) == 880
    assert Counter(box.label for boxes in found.values() for box in boxes) == {
        "Atelectasis": 180,
        "Effusion": 153,
        "Cardiomegaly": 146,
        "Infiltration": 123,
        "Pneumonia": 120,
        "Pneumothorax": 98,
        "Mass": 85,
        "Nodule": 79,
    }
    for boxes in found.values():
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= 1024.01
            assert 0 <= box.y0 < box.y1 <= 1024.01


def _official(entries: list[Record]) -> tuple[list[str], list[str]]:
    """Lists as the official ones are made: by patient, about a quarter for test."""
    tested = {entry.patient for entry in entries if int(entry.patient) % 9 in (1, 5)}
    test = [entry.uri for entry in entries if entry.patient in tested]
    rest = [entry.uri for entry in entries if entry.patient not in tested]
    return rest, test


def test_the_official_test_list_stays_and_validation_is_cut_by_patient(
    entries: list[Record], table_cache: Path
) -> None:
    train_val, test = _official(entries)
    boxed = chestxray14.boxes(wheels.table_rows("BBox_List_2017", table_cache))
    records = chestxray14.records(
        entries,
        train_val=train_val,
        test=test,
        boxed=boxed,
    )
    assert len(records) == 112_120
    by_split = {
        split: [record for record in records if record.split == split]
        for split in ("train", "val", "test")
    }
    assert [record.split for record in records] == sorted(
        (record.split for record in records), key=["train", "val", "test"].index
    )
    assert {record.uri for record in by_split["test"]} == set(test)
    patients = {split: {r.patient for r in rows} for split, rows in by_split.items()}
    assert not patients["train"] & patients["val"]
    assert not patients["test"] & (patients["train"] | patients["val"])
    assert abs(len(by_split["val"]) / len(train_val) - 0.125) < 0.001
    targets = {split: np.array([r.targets for r in rows]) for split, rows in by_split.items()}
    together = targets["train"].sum(0) + targets["val"].sum(0)
    assert np.allclose(targets["val"].sum(0) / together, 0.125, atol=0.01)
    assert sum(len(record.boxes) for record in records) == 984


def test_what_differs_from_the_publication_is_said(
    entries: list[Record], table_cache: Path
) -> None:
    table = wheels.read_table("Data_Entry_2017_v2020", table_cache)
    names = [entry.uri for entry in entries]
    as_published = chestxray14.differences(table, entries, names[:86_524], names[86_524:])
    assert as_published == []
    said = chestxray14.differences(table + b"\n", entries[:-1], names[:86_524], names[86_525:])
    assert said == [
        "Data_Entry_2017 is not the release of 2020, byte for byte.",
        "There are 112,119 images in Data_Entry_2017; published: 112,120.",
        "There are 30,804 patients in Data_Entry_2017; published: 30,805.",
        "There are 25,595 images in test_list; published: 25,596.",
    ]


def test_an_image_in_no_list_stops_it(entries: list[Record]) -> None:
    train_val, test = _official(entries[:100])
    with pytest.raises(DataError, match="1 images are in neither"):
        chestxray14.records(entries[:101], train_val=train_val, test=test, boxed={})


def test_a_patient_in_both_lists_stops_it(entries: list[Record]) -> None:
    names = [entry.uri for entry in entries[:40]]
    with pytest.raises(DataError, match="1 patients are in more than one split"):
        chestxray14.records(entries[:40], train_val=names[1:], test=names[:1], boxed={})


HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)


def _table(*rows: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("\n".join([HEADER, *rows]))))


def test_the_ages_of_the_first_release() -> None:
    found = chestxray14.entries(
        _table(
            "a.png,No Finding,0,1,058Y,F,PA",
            "b.png,Mass|Nodule,0,2,411,M,AP",
            "c.png,Hernia,0,3,006M,M,AP",
        )
    )
    assert found[0].age == 58
    assert math.isnan(found[1].age)
    assert found[2].age == 0.5
    assert present(found[1], CHESTXRAY14) == {"Mass", "Nodule"}
    assert found[0].targets == (0.0,) * 14
    assert found[2].targets[CHESTXRAY14.index("Hernia")] == 1.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,Tumour,0,1,58,F,PA"], "line 2: 'Tumour' is none of the labels"),
        (["a.png,Mass,0,1,58,F,PA"] * 2, "lists 1 images twice"),
        ([], "lists no image"),
    ],
)
def test_tables_that_cannot_be_trusted(rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        chestxray14.entries(_table(*rows))


def test_another_table() -> None:
    with pytest.raises(DataError, match="no column 'Finding Labels'"):
        chestxray14.entries([{"Path": "a.png"}])
