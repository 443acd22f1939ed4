"""What a large object costs: its size once in the worker, once in the decode process."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.fuzz.hostile import element, part10
from support.tiny_film import film

from hilum.errors import HilumError
from hilum.imaging.transform import PreprocessSpec
from hilum.packages.manifest import InputPolicy
from hilum.pipeline.examine import Recipe, isolated
from hilum.sandbox import Decoders
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store

LIMITS = Limits()
SIZE = 64 * 2**20
JUNK = np.random.default_rng(0).bytes(SIZE)
KINDS = {
    "bytes behind a prefix": bytes(128) + b"DICM" + JUNK,
    "private data": part10(element(0x29, 0x10, b"OB", JUNK)),
    "pixels of another size": film(1, PixelData=JUNK),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_junk_object_is_held_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "junk"
    path.write_bytes(KINDS[kind])
    recipe = Recipe(preprocess=PreprocessSpec(size=64), policy=InputPolicy(), limits=LIMITS)
    with Decoders(1, LIMITS) as decoders:
        prepare = isolated(recipe, decoders)
        prepare(film(2))
        (child,) = psutil.Process().children()
        idle = _peak(child)
        tracemalloc.start()
        try:
            with pytest.raises(HilumError):
                prepare(open_store(S3Settings(), LIMITS, allow_local=True).read(str(path)))
            _, here = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert child.is_running(), "a large object is no leak"
        there = _peak(child) - idle
    assert here < 1.5 * SIZE
    assert there < 1.5 * SIZE


def _peak(process: psutil.Process) -> int:
    """The most memory it ever had, bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
