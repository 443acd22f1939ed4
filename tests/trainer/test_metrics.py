"""Metrics against cases counted by hand; what is undefined is None."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer import metrics

NAN = math.nan


def _a(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


def test_auroc_counts_pairs() -> None:
    # Pairs (positive, negative): 0.8>0.1, 0.8>0.4, 0.4>0.1, 0.4=0.4 counts half: 3.5 of 4.
    assert metrics.auroc(_a(1, 0, 1, 0), _a(0.8, 0.1, 0.4, 0.4)) == pytest.approx(3.5 / 4)
    assert metrics.auroc(_a(1, 0, NAN), _a(0.9, 0.1, 0.0)) == 1.0


@pytest.mark.parametrize("target", [_a(0, 0), _a(1, 1), _a(NAN, NAN), _a(1, NAN)])
def test_auroc_is_undefined_where_a_class_is_absent(target: np.ndarray) -> None:
    assert metrics.auroc(target, _a(0.2, 0.7)) is None


def test_means_leave_out_the_undefined() -> None:
    assert metrics.mean_defined([0.5, None, 1.0]) == 0.75
    assert metrics.mean_defined([None]) is None
    assert metrics.brier(_a(NAN), _a(0.1)) is None
    assert metrics.calibration_error(_a(NAN), _a(0.1)) is None


def test_calibration_error_and_brier_by_hand() -> None:
    # One bin (0.8 … 0.867): mean probability 0.85, mean outcome 0.5.
    assert metrics.calibration_error(_a(1, 0), _a(0.85, 0.85)) == pytest.approx(0.35)
    # Two bins, half the images each: |0.1 - 0| and |0.9 - 1|.
    assert metrics.calibration_error(_a(0, 1), _a(0.1, 0.9)) == pytest.approx(0.1)
    assert metrics.calibration_error(_a(1), _a(1.0)) == 0
    assert metrics.brier(_a(1, 0), _a(0.5, 0.1)) == pytest.approx((0.25 + 0.01) / 2)
