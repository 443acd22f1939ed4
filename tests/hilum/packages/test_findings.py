"""Calibration against values worked out by hand; which labels become findings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support import tiny_package

from hilum.finding import Finding
from hilum.packages.findings import above_operating_point, calibrate
from hilum.packages.labels import COVID_TB_PNEUMONIA
from hilum.packages.manifest import Calibration, OperatingPoint


def test_calibration_that_changes_nothing() -> None:
    raw = np.linspace(0.001, 0.999, 14, dtype=np.float32).reshape(7, 2)
    same = Calibration(scale=(1, 1), shift=(0, 0))
    calibrated = calibrate(raw, same, "multi_label")
    assert calibrated.dtype == np.float32
    np.testing.assert_allclose(calibrated, raw, rtol=1e-6)
    exclusive = raw / raw.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(calibrate(exclusive, same, "multi_class"), exclusive, rtol=1e-6)


def test_platt_scaling_by_hand() -> None:
    # logit(0.8) = ln 4; 0.5·ln 4 + ln 3 = ln 6; sigmoid(ln 6) = 6/7.
    calibration = Calibration(scale=(0.5, 1), shift=(math.log(3), -math.log(2)))
    raw = np.array([0.8, 0.5], dtype=np.float32)
    np.testing.assert_allclose(
        calibrate(raw, calibration, "multi_label"), [6 / 7, 1 / 3], rtol=1e-6
    )


def test_vector_scaling_by_hand() -> None:
    # exp(scale·ln p + shift) = p^2 · 3 and p: 0.75 and 0.5, of 1.25.
    calibration = Calibration(scale=(2, 1), shift=(math.log(3), 0))
    raw = np.array([0.5, 0.5], dtype=np.float32)
    np.testing.assert_allclose(calibrate(raw, calibration, "multi_class"), [0.6, 0.4], rtol=1e-6)


@pytest.mark.parametrize("kind", ["multi_label", "multi_class"])
def test_saturated_outputs_stay_probabilities(kind: str) -> None:
    raw = np.array([0.0, 1.0], dtype=np.float32)
    steep = Calibration(scale=(80, 80), shift=(-3, 3))
    calibrated = calibrate(raw, steep, kind)  # type: ignore[arg-type]
    assert np.isfinite(calibrated).all()
    np.testing.assert_allclose(calibrated, [0, 1], atol=1e-6)


def test_findings_are_at_or_above_their_own_threshold_and_never_normal(tmp_path: Path) -> None:
    thresholds = {"Normal": 0.1, "COVID-19": 0.25, "Tuberculosis": 0.3, "Pneumonia": 0.2}
    manifest = tiny_package.build(
        tmp_path,
        labels=COVID_TB_PNEUMONIA,
        operating_points={
            label: OperatingPoint(threshold=value, rule="test")
            for label, value in thresholds.items()
        },
    )
    probability = np.array([0.25, 0.25, 0.25, 0.25], dtype=np.float32)
    assert above_operating_point(probability, manifest) == (
        Finding(label="COVID-19", probability=0.25, threshold=0.25),
        Finding(label="Pneumonia", probability=0.25, threshold=0.2),
    )
