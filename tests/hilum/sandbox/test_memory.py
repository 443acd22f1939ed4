"""What a large object costs: its size once, in the decode process that reads it."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.fuzz.hostile import element, part10
from support.tiny_film import film

from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.manifest import InputPolicy
from hilum.pipeline.load import Loader
from hilum.pipeline.stages import ExamineOptions
from hilum.sandbox import Decoders
from hilum.sandbox.shared import SharedBytes, mapped
from hilum.session import DECODE_TASKS
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store

LIMITS = Limits()
SIZE = 64 * 2**20
OPTIONS = ExamineOptions(preprocess=PreprocessSpec(size=64), policy=InputPolicy(), limits=LIMITS)
KINDS = {
    "bytes behind a prefix": lambda junk: bytes(128) + b"DICM" + junk,
    "private data": lambda junk: part10(element(0x29, 0x10, b"OB", junk)),
    "pixels of another size": lambda junk: film(1, PixelData=junk),
    "no format at all": lambda junk: junk,
}


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(1, LIMITS, tasks=DECODE_TASKS) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_junk_object_is_held_once(kind: str, tmp_path: Path, decoders: Decoders) -> None:
    small, path = tmp_path / "small", tmp_path / "junk"
    small.write_bytes(film(2, BodyPartExamined="HAND"))
    path.write_bytes(KINDS[kind](np.random.default_rng(0).bytes(SIZE)))
    loader = Loader(OPTIONS, open_store(S3Settings(), LIMITS, allow_local=True), None, decoders)
    with pytest.raises(HilumError):
        loader.load(str(small))
    (decoder,) = decoders._idle[0]
    assert decoder is not None
    child = psutil.Process(decoder.pid)
    idle = _peak(child)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = _peak(psutil.Process())
    tracemalloc.start()
    try:
        with pytest.raises(HilumError):
            loader.load(str(path))
        _, made = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert child.is_running(), "a large object is no leak"
    there = _peak(child) - idle
    here = _peak(psutil.Process()) - before
    assert made < 0.1 * SIZE, "only pieces are here"
    assert here < 0.1 * SIZE, "nor are they mapped"
    assert there < 1.2 * SIZE


def test_an_object_cannot_be_changed_by_whoever_reads_it(tmp_path: Path) -> None:
    with SharedBytes() as shared:
        shared.write(b"film")
        sealed = shared.sealed()
        if isinstance(sealed, bytes):
            pytest.skip("There is no memory to share.")
        descriptor, size = sealed
        assert bytes(mapped(descriptor, size)) == b"film"
        with pytest.raises(PermissionError):
            os.write(descriptor, b"other")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_an_object_is_mapped_as_every_kernel_allows() -> None:
    """Linux before 6.7 refuses a shared mapping of what is sealed against writing."""
    with SharedBytes() as shared:
        shared.write(b"film")
        sealed = shared.sealed()
        assert not isinstance(sealed, bytes)
        view = mapped(*sealed)
        lines = Path("/proc/self/maps").read_text().splitlines()
        rights = [line.split()[1] for line in lines if "memfd:object" in line]
        assert bytes(view) == b"film"
    assert rights == ["r--p"]


def _peak(process: psutil.Process) -> int:
    """The most memory it ever had, what it shares included, bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
