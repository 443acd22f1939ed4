"""A short, always equal slice of what ``make fuzz`` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fuzz.hostile import hostile
from support.fuzz.run import run
from support.fuzz.seeds import large

from hilum import dicom
from hilum.settings import Limits

LIMITS = Limits(max_decode_s=4, max_decode_bytes=384 * 2**20)
STEP = 7
SIDE = 128  # of the model in `support.fuzz.run`, twice its size


def test_broken_and_hostile_files_end_in_typed_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    first = -(-len(hostile()) // STEP)
    tally = run(first + 120, seed=20, limits=LIMITS, processes=2, step=STEP)
    assert tally.failures(LIMITS) == []
    assert sum(tally.codes.values()) == first + 120
    # It came as far as the decoders, and not everything was refused for one reason.
    assert tally.codes["prepared"] > 20
    assert tally.codes["dicom.decode_failed"] > 40
    assert len(tally.codes) >= 8


def test_the_large_seeds_are_good_and_decoded_in_part() -> None:
    """Else nothing that is made of them would come as far as that."""
    for data in large():
        opened = dicom.open_object(data, LIMITS)
        whole, less = dicom.decode(opened), dicom.decode(opened, side=SIDE)
        assert SIDE * 0.8 <= max(less.pixels.shape) < max(whole.pixels.shape)
        assert abs(float(less.pixels.mean() - whole.pixels.mean())) < 0.01
