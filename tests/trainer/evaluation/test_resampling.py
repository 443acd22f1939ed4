"""Areas, rates and intervals against scikit-learn and against what is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from trainer.evaluation.bootstrap import Bootstrap, enough_patients, interval
from trainer.evaluation.figures import RATES, Decisions, rates
from trainer.evaluation.ranking import Ranking, whole

NAN = float("nan")


def _films(count: int, seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random(count) < 0.15).astype(np.float64)
    score = rng.normal(target, 1)
    return target, np.round(score, 1) if ties else score


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_weighted_areas_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    target, score = _films(300, seed, ties=ties)
    weights = np.random.default_rng(seed).integers(0, 4, (300, 7)).astype(np.float32)
    found = Ranking(target, score).areas(weights)
    for b in range(7):
        expected = sk.roc_auc_score(target, score, sample_weight=weights[:, b])
        assert found[b, 0] == pytest.approx(expected, abs=1e-6)
        expected = sk.average_precision_score(target, score, sample_weight=weights[:, b])
        assert found[b, 1] == pytest.approx(expected, abs=1e-6)


def test_unknown_labels_and_pooled_films() -> None:
    target, score = _films(200, 1, ties=True)
    target[::7] = NAN
    target[1::9] = 0.5  # uncertain: no truth
    known = (target == 0) | (target == 1)
    found = Ranking(target, score).areas(whole(200))[0]
    assert found[0] == pytest.approx(sk.roc_auc_score(target[known], score[known]))
    # Two labels of a film, pooled: a film drawn twice counts twice in both.
    other, second = _films(200, 2, ties=True)
    both = np.stack([np.where(known, target, 0), other], axis=1).ravel()
    scores = np.stack([score, second], axis=1).ravel()
    weights = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.float32)
    pooled = Ranking(both, scores, np.repeat(np.arange(200), 2)).areas(weights)
    for b in range(2):
        expected = sk.roc_auc_score(both, scores, sample_weight=np.repeat(weights[:, b], 2))
        assert pooled[b, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("target", [[0, 0], [1, 1], [NAN, 1], [NAN, NAN]])
def test_undefined_is_nan_never_a_number(target: list[float]) -> None:
    found = Ranking(np.array(target), np.array([0.2, 0.7])).areas(whole(2))[0]
    assert np.isnan(found[0])
    assert np.isnan(found[1]) == (1 not in target)


def test_rates_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((250, 3)) < [0.3, 0.1, 0.0]).astype(np.float64)
    probability = rng.random((250, 3))
    threshold = np.array([0.4, 0.9, 0.5])
    weights = rng.integers(0, 3, (250, 2)).astype(np.float32)
    found = rates(Decisions(targets, probability, threshold).counts(weights))
    assert found.shape == (2, len(RATES), 3)
    for b in range(2):
        for k in range(2):
            called = probability[:, k] >= threshold[k]
            args = {"sample_weight": weights[:, b]}
            expected = (
                sk.recall_score(targets[:, k], called, **args),
                sk.recall_score(1 - targets[:, k], ~called, **args),
                sk.precision_score(targets[:, k], called, **args),
                sk.precision_score(1 - targets[:, k], ~called, **args),
                sk.f1_score(targets[:, k], called, **args),
            )
            assert found[b, :, k] == pytest.approx(expected, abs=1e-6)
    # No film has the third label: nothing to be sensitive to, and no F1.
    assert np.isnan(found[:, RATES.index("sensitivity"), 2]).all()
    assert np.isnan(found[:, RATES.index("f1"), 2]).all()


def test_patients_are_drawn_whole_and_reproducibly() -> None:
    patients = [f"p{n // 3}" for n in range(30)]
    drawn = np.concatenate(list(Bootstrap(replicates=50, seed=4).weights(patients)), axis=1)
    assert drawn.shape == (30, 50)
    assert (drawn.reshape(10, 3, 50).std(axis=1) == 0).all(), "films of a patient go together"
    assert (drawn.sum(axis=0) == 30).all()
    again = np.concatenate(list(Bootstrap(replicates=50, seed=4).weights(patients)), axis=1)
    assert np.array_equal(drawn, again)


def test_the_interval_widens_when_films_are_of_fewer_patients() -> None:
    """The reason for drawing patients: copies of a film are no evidence."""
    target, score = _films(60, 5, ties=False)
    ranking = Ranking(np.repeat(target, 8), np.repeat(score, 8))
    spread = {}
    for name, patients in (
        ("films", [str(n) for n in range(480)]),
        ("patients", [str(n // 8) for n in range(480)]),
    ):
        found = interval(Bootstrap(replicates=400).samples(patients, ranking.areas)[:, 0])
        assert found is not None
        spread[name] = found[1] - found[0]
    assert spread["patients"] > 2 * spread["films"]


def test_coverage_of_the_interval() -> None:
    """Of 60 data sets whose AUROC is known (Φ(1/√2) = 0.760), nearly all intervals hold it."""
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        target = (rng.random(200) < 0.3).astype(float)
        ranking = Ranking(target, rng.normal(target, 1))
        patients = [str(n) for n in range(200)]
        found = interval(Bootstrap(replicates=200).samples(patients, ranking.areas)[:, 0])
        assert found is not None
        inside += found[0] <= 0.7602 <= found[1]
    assert 51 <= inside < 60


def test_no_interval_from_too_little() -> None:
    assert interval(np.array([NAN, NAN, 0.5])) is None
    assert interval(np.array([])) is None
    patients = ["a"] * 9 + list("bcdefgh")
    target = np.array([1.0] * 9 + [0.0] * 7)
    assert not enough_patients(patients, target), "nine films of one patient are one patient"
    assert enough_patients([str(n) for n in range(16)], target)
