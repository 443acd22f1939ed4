"""What a large object costs: its size once in the worker, once in the decode process."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.fuzz.hostile import element, part10
from support.tiny_film import film

from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline.load import Loader
from hilum.pipeline.stages import ExamineOptions
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS
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
    (tmp_path / "film").write_bytes(film(2))
    policy = InputPolicy(pixels=PixelPolicy.nothing())  # the film is noise
    options = ExamineOptions(preprocess=PreprocessSpec(size=64), policy=policy, limits=LIMITS)
    store = open_store(S3Settings(), LIMITS, allow_local=True)
    with Decoders(1, LIMITS, tasks=DECODE_TASKS) as decoders:
        loader = Loader(options, store, decoders=decoders)
        loader.load(str(tmp_path / "film"))
        (child,) = decoders._idle.queue
        assert child is not None
        idle = _peak(child.pid)
        tracemalloc.start()
        try:
            with pytest.raises(HilumError):
                loader.load(str(path))
            _, here = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert list(decoders._idle.queue) == [child], "a large object is no leak"
        there = _peak(child.pid) - idle
    assert here < 1.5 * SIZE
    assert there < 1.5 * SIZE


def _peak(pid: int) -> int:
    """The most memory it ever had, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
