"""Splits by patient, with every label where it can be."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from trainer import manifest, splits
from trainer.errors import DataError, PatientLeakError
from trainer.manifest import Record

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def _population(
    patients: int, seed: int
) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Patients of 1 to 9 films; labels of 30, 5 and about 0.3 per cent, constant in a patient."""
    rng = np.random.default_rng(seed)
    films = rng.integers(1, 10, patients)
    labels = rng.random((patients, 3)) < (0.3, 0.05, 0.003)
    labels[:4, 2] = True
    names = np.repeat(np.arange(patients), films)
    return [f"p{n}" for n in names], labels[names].astype(float)


def test_no_patient_is_split_and_shares_and_labels_are_kept() -> None:
    patients, labels = _population(800, 1)
    found = np.array(splits.by_patient(patients, labels, SHARES, seed=3))
    of_patient = defaultdict(set)
    for patient, split in zip(patients, found, strict=True):
        of_patient[patient].add(split)
    assert {len(splits) for splits in of_patient.values()} == {1}
    for split, share in SHARES.items():
        inside = found == split
        assert abs(inside.mean() - share) < 0.005
        # The two common labels: within two per cent of the label's own share.
        assert np.allclose(labels[inside][:, :2].sum(0) / labels[:, :2].sum(0), share, atol=0.02)
        assert labels[inside][:, 2].any(), "the rarest label is everywhere"


def test_a_random_split_would_not_do() -> None:
    """What the test above asks for is not to be had by luck."""
    patients, labels = _population(800, 1)
    names = sorted(set(patients))
    rng = np.random.default_rng(0)
    without = 0
    for _ in range(20):
        split_of = dict(
            zip(names, rng.choice(list(SHARES), len(names), p=list(SHARES.values())), strict=True)
        )
        found = np.array([split_of[patient] for patient in patients])
        without += not all(labels[found == split][:, 2].any() for split in SHARES)
    assert without > 5


def test_the_same_seed_gives_the_same_splits() -> None:
    patients, labels = _population(60, 2)
    one = splits.by_patient(patients, labels, SHARES, seed=1)
    assert one == splits.by_patient(patients, labels, SHARES, seed=1)
    assert one != splits.by_patient(patients, labels, SHARES, seed=2)


def test_labels_not_known_are_no_positives() -> None:
    labels = [[1.0], [float("nan")], [float("nan")], [1.0]]
    found = splits.by_patient(["a", "b", "c", "d"], labels, {"one": 1, "two": 1}, seed=0)
    assert found[0] != found[3]
    assert found[1] != found[2]


def test_fewer_patients_than_splits() -> None:
    with pytest.raises(DataError, match="2 patients are too few for 3 splits"):
        splits.by_patient(["a", "b", "a"], [[0.0]] * 3, SHARES, seed=0)


def test_a_leak_stops_the_run() -> None:
    one = Record(uri="0.png", patient="p", split="train", targets=(0.0,))
    two = Record(uri="1.png", patient="p", split="test", targets=(0.0,))
    with pytest.raises(PatientLeakError, match="1 patients are in more than one split"):
        manifest.check_patients([one, two])
