"""Decode processes: what may happen in them happens to one image."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.tiny_film import film

from hilum.errors import (
    DecoderCrashedError,
    DecodersUnavailableError,
    DecodeTimeoutError,
    HilumError,
    LimitExceededError,
    NotChestError,
    NotDicomError,
    OutOfMemoryError,
    UnexpectedError,
)
from hilum.imaging.rendering import Heat, Look, draw, render
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline.admit import admit
from hilum.pipeline.examine import examine, examiner
from hilum.pipeline.stages import Examination, ExamineOptions, Ready
from hilum.sandbox import Decoders, landlock
from hilum.session import DECODE_TASKS
from hilum.settings import Limits

LIMITS = Limits(max_decode_s=60, max_decode_bytes=256 * 2**20)
OPTIONS = ExamineOptions(
    preprocess=PreprocessSpec(size=64),
    policy=InputPolicy(pixels=PixelPolicy.nothing()),  # the films are noise
    limits=LIMITS,
    preview_side=32,
)
POISONED = ("-m", "support.poisoned_decoder")
TESTS = str(Path(__file__).parents[2])


Load = Callable[[bytes], Ready]


def ready(examination: Examination) -> Ready:
    return admit(examination, OPTIONS.policy)


def load_in(decoders: Decoders) -> Load:
    examine_there = examiner(OPTIONS, decoders)
    return lambda data: ready(examine_there(data))


@pytest.fixture(scope="module")
def poisoned() -> Iterator[Decoders]:
    """One process; a new one after each fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS)
        patch.setenv("HILUM_S3__SECRET_ACCESS_KEY", "a secret")
        with Decoders(1, LIMITS, tasks=DECODE_TASKS, program=POISONED) as decoders:
            yield decoders


@pytest.fixture
def load(poisoned: Decoders) -> Load:
    return load_in(poisoned)


def pid_of(decoders: Decoders) -> int:
    (child,) = decoders._idle[0]
    assert child is not None
    return child.pid


def test_the_answer_is_that_of_this_process(load: Load) -> None:
    for data in (film(1), film(2, BodyPartExamined=None)):
        there, here = load(data), ready(examine(data, OPTIONS))
        assert there.header == here.header
        assert there.content_sha256 == here.content_sha256
        assert there.flags == here.flags
        assert there.model_input.placement == here.model_input.placement
        np.testing.assert_array_equal(there.model_input.image, here.model_input.image)
        assert there.preview is not None
        assert here.preview is not None
        np.testing.assert_array_equal(there.preview, here.preview)


def test_an_overlay_is_drawn_there(poisoned: Decoders) -> None:
    heat = Heat(grid=np.eye(7, dtype=np.float32), probability=0.7, input_size=64)
    look = Look(max_side=64, caption="demonstration only")
    assert render(film(1), heat, look, decoders=poisoned) == draw(film(1), heat, look, LIMITS)


def test_errors_are_of_their_own_class_and_the_process_goes_on(
    poisoned: Decoders, load: Load
) -> None:
    load(film(1))
    before = pid_of(poisoned)
    with pytest.raises(NotDicomError) as broken:
        load(b"not DICOM" * 100)
    assert broken.value.body()["next_step"] == NotDicomError.next_step
    with pytest.raises(NotChestError, match="HAND"):
        load(film(1, BodyPartExamined="HAND"))
    assert pid_of(poisoned) == before


FAULTS: dict[int, tuple[type[HilumError], str]] = {
    67: (DecoderCrashedError, "SIGSEGV"),
    69: (LimitExceededError, "max_decode_bytes"),
    70: (DecoderCrashedError, "SIGSEGV"),
    71: (OutOfMemoryError, "from outside"),
    72: (UnexpectedError, "FileNotFoundError"),  # no place where a file could be written
    74: (DecoderCrashedError, "closed its link"),
}


@pytest.mark.parametrize("rows", FAULTS)
def test_a_fault_costs_its_own_image(rows: int, poisoned: Decoders, load: Load) -> None:
    load(film(1))
    before = pid_of(poisoned)
    kind, says = FAULTS[rows]
    with pytest.raises(HilumError, match=says) as failed:
        load(film(2, rows=rows))
    assert type(failed.value) is kind
    assert not psutil.pid_exists(before), "a process that something happened to does not go on"
    assert isinstance(load(film(3)), Ready)


def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", TESTS)
    hurried = Limits(max_decode_s=1, max_decode_bytes=LIMITS.max_decode_bytes)
    with Decoders(1, hurried, tasks=DECODE_TASKS, program=POISONED) as decoders:
        decoders.warm()
        before = pid_of(decoders)
        with pytest.raises(DecodeTimeoutError, match=r"max_decode_s \(1 s"):
            load_in(decoders)(film(2, rows=68))
        assert not psutil.pid_exists(before)


def test_a_decoder_holds_no_secrets(load: Load) -> None:
    with pytest.raises(UnexpectedError) as shown:
        load(film(2, rows=73))
    names = set(shown.value.detail.split())
    assert "PYTHONPATH" in names
    assert not [name for name in names if name.startswith(("HILUM_", "AWS_"))]


def test_a_decoder_gains_no_privileges(poisoned: Decoders, load: Load) -> None:
    load(film(1))
    status = Path(f"/proc/{pid_of(poisoned)}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Threads:\t1\n" in status, "another thread would not be confined"


@pytest.mark.skipif(landlock.version() < 6, reason="the kernel has no Landlock, or an older one")
def test_a_decoder_reaches_nothing_but_its_modules(load: Load) -> None:
    with pytest.raises(UnexpectedError) as shown:
        load(film(2, rows=75))
    assert shown.value.detail == "a module, a codec"


def test_a_process_that_died_while_idle_costs_nothing(poisoned: Decoders, load: Load) -> None:
    load(film(1))
    child = psutil.Process(pid_of(poisoned))
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert isinstance(load(film(2)), Ready)


def test_many_threads_share_few_processes() -> None:
    with Decoders(2, LIMITS, tasks=DECODE_TASKS) as decoders, ThreadPoolExecutor(6) as pool:
        made = list(pool.map(load_in(decoders), [film(n) for n in range(12)]))
        assert len({child.pid for child in decoders._idle[0] if child is not None}) == 2
    for n, one in enumerate(made):
        expected = ready(examine(film(n), OPTIONS)).model_input.image
        np.testing.assert_array_equal(one.model_input.image, expected)


def test_processes_that_cannot_start_say_nothing_of_the_image() -> None:
    with (
        Decoders(
            1, LIMITS, tasks=DECODE_TASKS, program=("-c", "import sys; sys.exit(3)")
        ) as decoders,
        pytest.raises(DecodersUnavailableError, match="status 3"),
    ):
        load_in(decoders)(film(1))


def test_a_machine_that_starts_no_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (
        pytest.raises(DecodersUnavailableError),
        Decoders(2, LIMITS, tasks=DECODE_TASKS) as decoders,
    ):
        decoders.warm()  # and the pool is closed without waiting for processes that are not there


def test_an_answer_is_not_lost_with_the_process_that_follows(
    poisoned: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned.warm()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnexpectedError):  # its process retires, and no other can be started
        load_in(poisoned)(film(2, rows=73))
    monkeypatch.undo()
    assert isinstance(load_in(poisoned)(film(1)), Ready)


_PARENT = """
import sys, threading
from hilum.sandbox import Decoders, landlock
from hilum.pipeline.examine import examiner
from hilum.pipeline.stages import ExamineOptions
options = ExamineOptions.model_validate_json(sys.argv[1])
tasks, program = "hilum.pipeline.tasks", ("-m", "support.poisoned_decoder")
decoders = Decoders(2, options.limits, tasks=tasks, program=program)
examine = examiner(options, decoders)
hanging, idle = (open(path, "rb").read() for path in sys.argv[2:])
threading.Thread(target=examine, args=(hanging,), daemon=True).start()
examine(idle)
print("up", flush=True)
threading.Event().wait()
"""


def test_they_die_with_their_parent_even_in_the_middle_of_c_code(tmp_path: Path) -> None:
    """SIGKILL gives the parent no chance to end them; one of them holds the interpreter's lock."""
    files = []
    for name, data in (("hanging", film(1, rows=68)), ("idle", film(1))):
        (tmp_path / name).write_bytes(data)
        files.append(str(tmp_path / name))
    patient = OPTIONS.model_copy(update={"limits": Limits(max_decode_s=300)})
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, patient.model_dump_json(), *files],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": TESTS},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    assert len(gone) == 2
