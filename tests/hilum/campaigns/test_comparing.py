"""The figures of a report, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from hilum.campaigns.comparing import paired_difference, psi
from hilum.campaigns.planning import wilson


def test_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, trials), interval in known.items():
        assert wilson(hits, trials) == pytest.approx(interval, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_psi_is_zero_of_the_same_and_known_of_a_shift() -> None:
    before = np.zeros(200, dtype=np.int64)
    before[:100] = 10
    assert psi(before, before * 3) == pytest.approx(0.0, abs=1e-12)
    after = np.zeros(200, dtype=np.int64)
    after[:50] = 30  # three quarters lie in the lower half
    after[50:100] = 10
    assert psi(before, after) == pytest.approx(0.25 * np.log(3), rel=1e-6)
    assert psi(before, np.zeros(200)) is None


def test_a_paired_difference_covers_what_it_should() -> None:
    """By simulation: 95 % of the intervals contain the true change of 2 %."""
    rng = np.random.default_rng(4711)
    inside = 0
    for _ in range(2000):
        gained, lost, _ = rng.multinomial(400, [0.05, 0.03, 0.92])
        _, low, high = paired_difference(int(gained), int(lost), 400)
        inside += low <= 0.02 <= high
    assert 0.93 < inside / 2000 < 0.97
    assert paired_difference(0, 0, 0) == (0.0, -1.0, 1.0)
