"""A short, always equal slice of what ``make fuzz`` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fuzz.hostile import hostile
from support.fuzz.run import run

from hilum.settings import Limits

LIMITS = Limits(max_decode_s=4, max_decode_bytes=384 * 2**20)
STEP = 7


def test_broken_and_hostile_files_end_in_typed_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    first = -(-len(hostile()) // STEP)
    tally = run(first + 250, seed=20, limits=LIMITS, processes=2, step=STEP)
    assert tally.failures(LIMITS) == []
    assert sum(tally.codes.values()) == first + 250
    # It came as far as the decoders, and not everything was refused for one reason.
    assert tally.codes["prepared"] > 20
    assert tally.codes["dicom.decode_failed"] > 40
    assert len(tally.codes) >= 8
