"""Calibration and operating points, on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hilum.errors import ConfigurationError
from hilum.packages.findings import calibrate
from trainer import calibration, metrics
from trainer.calibration import Rule


def _distorted(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Raw probabilities whose true logit is 2 · logit(raw) − 1."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, count)
    raw = 1 / (1 + np.exp(-logit))
    true = 1 / (1 + np.exp(-(2 * logit - 1)))
    return raw[:, None].astype(np.float32), (rng.random(count) < true).astype(np.float32)[:, None]


def test_platt_finds_the_distortion_and_removes_it() -> None:
    raw, target = _distorted()
    fitted = calibration.fit(raw, target, "multi_label")
    assert fitted.scale[0] == pytest.approx(2, abs=0.1)
    assert fitted.shift[0] == pytest.approx(-1, abs=0.1)
    before = metrics.calibration_error(target[:, 0], raw[:, 0])
    after = metrics.calibration_error(target[:, 0], calibrate(raw, fitted, "multi_label")[:, 0])
    assert before is not None
    assert after is not None
    assert after < 0.02 < before


def test_separable_films_make_nobody_certain() -> None:
    """Films told apart without error say (n + 1) / (n + 2) and 1 / (m + 2), and no more."""
    raw = np.repeat([0.345, 0.355], [30, 10]).astype(np.float32)[:, None]
    target = (raw > 0.35).astype(np.float32)
    fitted = calibration.fit(raw, target, "multi_label")
    calibrated = calibrate(raw, fitted, "multi_label")[:, 0]
    assert calibrated[-1] == pytest.approx(11 / 12, abs=0.005)
    assert calibrated[0] == pytest.approx(1 / 32, abs=0.005)


def test_ranking_is_never_turned_round() -> None:
    raw = np.linspace(0.1, 0.9, 50, dtype=np.float32)[:, None]
    upside_down = (raw < 0.5).astype(np.float32)
    fitted = calibration.fit(raw, upside_down, "multi_label")
    assert (fitted.scale, fitted.shift) == ((1.0,), (0.0,))


def test_a_label_with_one_class_stays_as_it_is() -> None:
    raw = np.full((10, 2), 0.3, dtype=np.float32)
    raw[:, 1] = np.linspace(0.1, 0.9, 10)
    target = np.zeros((10, 2), dtype=np.float32)
    target[5:, 1] = 1
    target[0, 1] = math.nan
    fitted = calibration.fit(raw, target, "multi_label")
    assert (fitted.scale[0], fitted.shift[0]) == (1.0, 0.0)
    assert fitted.scale[1] > 1
    assert calibration.operating_point(target[:, 0], raw[:, 0]).threshold == 1.0


def test_temperature_of_exclusive_classes() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5000, 3))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = (true.cumsum(1) > rng.random((5000, 1))).argmax(1)
    sharp = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    fitted = calibration.fit(sharp, np.eye(3)[chosen], "multi_class")
    assert fitted.scale[0] == pytest.approx(0.5, abs=0.05)
    assert len(set(fitted.scale)) == 1


def test_youden_by_hand() -> None:
    target = np.array([0, 0, 1, 0, 1, 1], dtype=np.float64)
    score = np.array([0.1, 0.2, 0.15, 0.4, 0.6, 0.9])
    point = calibration.operating_point(target, score)
    # At 0.6: sensitivity 2/3 and specificity 1; at 0.15: 1 and 1/3.
    assert point.threshold == 0.6
    assert point.sensitivity == pytest.approx(2 / 3)
    assert point.specificity == 1


def test_one_temperature_a_label() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 2, (20_000, 2))
    target = (rng.random((20_000, 2)) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    sharp = 1 / (1 + np.exp(-logit * [2.0, 0.5]))
    fitted = calibration.fit(sharp, target, "multi_label", "temperature")
    assert fitted.scale == pytest.approx((0.5, 2.0), rel=0.05)
    assert fitted.shift == (0.0, 0.0)
    untouched = calibration.fit(sharp, target, "multi_label", "none")
    assert (untouched.scale, untouched.shift) == ((1.0, 1.0), (0.0, 0.0))


TARGET = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0], dtype=np.float64)
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])


@pytest.mark.parametrize(
    ("rule", "threshold", "sensitivity", "specificity"),
    [
        ("sensitivity>=0.75", 0.6, 0.75, 5 / 6),
        ("sensitivity>=0.76", 0.3, 1.0, 0.5),
        ("specificity>=0.8", 0.6, 0.75, 5 / 6),
        ("specificity>=1", 0.9, 0.25, 1.0),
        ("ppv>=0.75", 0.6, 0.75, 5 / 6),
        ("ppv>=0.5", 0.3, 1.0, 0.5),
        ("f1", 0.6, 0.75, 5 / 6),  # 6/8; all four at 0.3 give 8/11
        ("youden", 0.6, 0.75, 5 / 6),
    ],
)
def test_rules_by_hand(rule: str, threshold: float, sensitivity: float, specificity: float) -> None:
    point = calibration.operating_point(TARGET, SCORE, Rule.parse(rule))
    assert point.threshold == threshold
    assert point.sensitivity == pytest.approx(sensitivity)
    assert point.specificity == pytest.approx(specificity)
    assert Rule.parse(point.rule) == Rule.parse(rule)


def test_a_value_out_of_reach_reports_nothing() -> None:
    point = calibration.operating_point(1 - TARGET, SCORE, Rule.parse("ppv>=0.95"))
    assert point.threshold == 1.0
    assert point.rule == "ppv>=0.95: out of reach on validation"


@pytest.mark.parametrize("text", ["", "sensitivity", "sensitivity>=90", "recall>=0.9", "ppv>0.5"])
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a rule"):
        Rule.parse(text)


def test_thousands_of_films_give_a_share_exactly() -> None:
    """0.9 of 10 positives is 9, whatever the division says."""
    for positives in (10, 30, 70, 110):
        target = np.r_[np.ones(positives), np.zeros(50)]
        score = np.linspace(1, 0, positives + 50)
        point = calibration.operating_point(target, score, Rule.parse("sensitivity>=0.90"))
        assert point.sensitivity == pytest.approx(0.9)
