"""CheXpert from its real table."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hilum.packages.labels import CHEXPERT
from trainer import wheels
from trainer.datasets import chexpert
from trainer.errors import DataError, PatientLeakError
from trainer.manifest import Record


@pytest.fixture(scope="module")
def entries(table_cache: Path) -> list[Record]:
    return chexpert.entries(wheels.table_rows("chexpert_train", table_cache))


def _count(entries: list[Record], label: str) -> Counter[float]:
    k = CHEXPERT.index(label)
    return Counter(entry.targets[k] for entry in entries)


def test_counts_are_those_of_the_paper(entries: list[Record]) -> None:
    """Irvin et al. 2019: 223,414 films of 64,540 patients in training; table 1 of the paper."""
    assert len(entries) == 223_414
    assert len({entry.patient for entry in entries}) == 64_540
    # 32,387 laterals, and 17 frontals whose projection is said to be lateral.
    assert sum(entry.view == "LATERAL" for entry in entries) == 32_387 + 17
    assert _count(entries, "Pneumothorax")[1.0] == 19_448
    assert _count(entries, "Pneumothorax")[-1.0] == 3_145
    assert _count(entries, "Atelectasis")[-1.0] == 33_739
    assert _count(entries, "Pleural Effusion")[1.0] == 86_187


def _others(entries: list[Record]) -> list[Record]:
    """The same films of other patients, as a validation table."""
    return [
        dataclasses.replace(entry, patient=f"v{entry.patient}", uri=f"valid/{entry.uri}")
        for entry in entries
    ]


def test_policies(entries: list[Record]) -> None:
    some = entries[:20_000]
    valid = _others(some[:50])
    k = CHEXPERT.index("Atelectasis")
    raw = {entry.uri: str(entry.targets[k]) for entry in some}

    def values(**options: object) -> dict[str, dict[str, set[float]]]:
        found: dict[str, dict[str, set[float]]] = {"train": {}, "val": {}}
        for record in chexpert.records(some, valid, **options):  # type: ignore[arg-type]
            if record.split != "test":
                text = raw[record.uri]
                found[record.split].setdefault(text, set()).add(
                    -9.0 if math.isnan(record.targets[k]) else record.targets[k]
                )
        return found

    for policy, value in (("ignore", -9.0), ("ones", 1.0), ("zeros", 0.0), ("soft", 0.7)):
        found = values(uncertain=policy)
        assert found["train"]["-1.0"] == {value}
        assert found["val"]["-1.0"] == {-9.0}, "validation measures nothing nobody is sure of"
        assert found["train"]["1.0"] == {1.0}
        assert found["train"]["nan"] == {0.0}
    mixed = values(uncertain={"Atelectasis": "ones", "Edema": "soft"}, unmentioned="ignore")
    assert mixed["train"]["-1.0"] == {1.0}
    assert mixed["train"]["nan"] == {-9.0}
    with pytest.raises(DataError, match="'Tumour' is not a label"):
        chexpert.records(some, valid, uncertain={"Tumour": "ones"})


def test_splits(entries: list[Record]) -> None:
    some = entries[:6000]
    valid = _others(some[:40])
    records = chexpert.records(some, valid, uncertain="zeros", val_share=0.1)
    frontal = [entry for entry in some if entry.view != "LATERAL"]
    shares = Counter(record.split for record in records)
    assert shares["train"] + shares["val"] == len(frontal)
    assert abs(shares["val"] / len(frontal) - 0.1) < 0.01
    assert {record.view for record in records} <= {"PA", "AP", ""}
    both = chexpert.records(some, valid, uncertain="zeros", laterals=True)
    assert len(both) > len(records)
    positive = {
        split: np.nansum([r.targets for r in records if r.split == split], axis=0)
        for split in ("train", "val")
    }
    share = positive["val"] / (positive["val"] + positive["train"])
    assert np.abs(share - 0.1).max() < 0.03
    with pytest.raises(PatientLeakError):
        chexpert.records(some, some[:40], uncertain="ones")


def test_a_table_of_something_else() -> None:
    table = list(csv.DictReader(io.StringIO("Path,Sex\nCheXpert/train/patient1/a.jpg,Male\n")))
    with pytest.raises(DataError, match="no column"):
        chexpert.entries(table)
    row = dict.fromkeys(["Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT.labels], "")
    with pytest.raises(DataError, match="line 2: the path names no patient"):
        chexpert.entries([{**row, "Path": "a.jpg"}])
    with pytest.raises(DataError, match="line 2: a label must be"):
        chexpert.entries([{**row, "Path": "train/patient1/a.jpg", "Edema": "2"}])
