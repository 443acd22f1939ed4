"""Plans on disk: who finds which, and what happens when the disk or another process interferes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hilum.engines.cuda import Device
from hilum.engines.tensorrt.record import (
    BuildOptions,
    Machine,
    PlanKey,
    PlanRecord,
    key_for,
    misfit,
)
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import (
    EngineDamagedError,
    EngineIncompatibleError,
    EngineMissingError,
    EngineStoreError,
)

GRAPH = "a" * 64
L4 = Device(name="NVIDIA L4", compute_capability=(8, 9), memory_bytes=1, driver_cuda="13.0")
A10 = Device(name="NVIDIA A10", compute_capability=(8, 6), memory_bytes=1, driver_cuda="13.0")
ADA = Device(name="NVIDIA L40S", compute_capability=(8, 9), memory_bytes=1, driver_cuda="13.0")
T4 = Device(name="Tesla T4", compute_capability=(7, 5), memory_bytes=1, driver_cuda="13.0")
OLD = Device(name="NVIDIA L4", compute_capability=(8, 9), memory_bytes=1, driver_cuda="12.9")


def machine(device: Device | None = L4, version: str = "11.4.0.106") -> Machine:
    return Machine(library="tensorrt", library_version=version, device=device)


def key(where: Machine | None = None, **options: Any) -> PlanKey:
    profile = options.pop("profile", (1, 8, 16))
    build = BuildOptions(profile=profile, **options)
    return key_for(GRAPH, "fp16", where or machine(), build)


def record(of: PlanKey, plan: bytes, *, age_s: float = 0) -> PlanRecord:
    return PlanRecord(
        key=of,
        model="tiny 1.0.0",
        package="sha256:" + "c" * 64,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        built_at=datetime.now(UTC) - timedelta(seconds=age_s),
        build_seconds=1.0,
    )


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    (tmp_path / "engines").mkdir()
    return PlanStore(tmp_path / "engines")


def keep(store: PlanStore, of: PlanKey, plan: bytes, *, age_s: float = 0) -> PlanRecord:
    kept = record(of, plan, age_s=age_s)
    store.save(kept, plan)
    return kept


def test_a_plan_comes_back_as_it_was_put(store: PlanStore) -> None:
    kept = keep(store, key(), b"plan")
    assert store.get(key()) == kept
    assert store.find(GRAPH, machine(), max_batch=16) == (kept, b"plan")
    assert store.read(kept) == b"plan"


def test_every_part_of_the_key_counts() -> None:
    """A plan built with any other option, library or GPU has files of its own."""
    base = key()
    others = [
        key(profile=(1, 4, 16)),
        key(optimization_level=5),
        key(hardware="ampere_plus"),
        key(version_compatible=True),
        key(tf32=True),
        key(workspace_bytes=1),
        key(machine(ADA)),
        key(machine(A10)),
        key(machine(OLD)),
        key(machine(version="11.4.0.107")),
        base.model_copy(update={"graph_sha256": "d" * 64}),
        base.model_copy(update={"precision": "int8"}),
        base.model_copy(update={"library": "tensorrt_rtx"}),
    ]
    assert len({k.id for k in (base, *others)}) == len(others) + 1
    assert key().id == base.id


@pytest.mark.parametrize(
    ("options", "here", "why"),
    [
        ({}, machine(), None),
        ({}, machine(ADA), "built for NVIDIA L4 (sm_89), but this is NVIDIA L40S (sm_89)"),
        ({}, machine(OLD), "built for CUDA 13.0, but this is 12.9"),
        ({}, machine(None), "no GPU"),
        ({}, machine(version="11.5.0.1"), "version 11.4.0.106, but this is 11.5.0.1"),
        ({"hardware": "same_compute_capability"}, machine(ADA), None),
        ({"hardware": "same_compute_capability"}, machine(A10), "(sm_89), but this is NVIDIA A10"),
        ({"hardware": "ampere_plus"}, machine(A10), None),
        ({"hardware": "ampere_plus"}, machine(T4), "this is Tesla T4"),
        ({"version_compatible": True}, machine(version="11.5.0.1"), None),
        ({"version_compatible": True}, machine(version="11.3.0.99"), "version 11.4"),
        ({"version_compatible": True}, machine(version="12.0.0.1"), "version 11.4"),
    ],
)
def test_where_a_plan_runs(options: dict[str, Any], here: Machine, why: str | None) -> None:
    reason = misfit(key(**options), here)
    if why is None:
        assert reason is None
    else:
        assert reason is not None
        assert why in reason


def test_a_plan_of_the_other_library_does_not_run() -> None:
    rtx = key().model_copy(update={"library": "tensorrt_rtx", "device": "any"})
    assert "built by tensorrt_rtx" in str(misfit(rtx, machine()))


def test_nothing_built_and_nothing_that_fits_are_told_apart(store: PlanStore) -> None:
    with pytest.raises(EngineMissingError) as caught:
        store.find(GRAPH, machine(), max_batch=16)
    assert caught.value.code == "engine.missing"
    keep(store, key(machine(A10)), b"plan")
    with pytest.raises(EngineIncompatibleError, match="built for NVIDIA A10") as caught:
        store.find(GRAPH, machine(), max_batch=16)
    assert "hilum engine build" in caught.value.body()["next_step"]


def test_a_plan_for_smaller_batches_does_where_there_is_none_for_larger(store: PlanStore) -> None:
    """The engine takes a large batch in parts."""
    small = keep(store, key(profile=(1, 4, 8)), b"8")
    assert store.find(GRAPH, machine(), max_batch=16) == (small, b"8")
    large = keep(store, key(), b"16", age_s=100)
    assert store.find(GRAPH, machine(), max_batch=16) == (large, b"16")
    # Room for more than ever comes is worth nothing.
    keep(store, key(profile=(1, 4, 64)), b"64", age_s=200)
    assert store.find(GRAPH, machine(), max_batch=16) == (large, b"16")


def test_the_plan_made_for_this_very_gpu_comes_first(store: PlanStore) -> None:
    keep(store, key(hardware="ampere_plus"), b"for all")
    own = keep(store, key(), b"own", age_s=100)
    keep(store, key(machine(version="11.3.0.1"), version_compatible=True), b"older TensorRT")
    assert store.find(GRAPH, machine(), max_batch=16) == (own, b"own")


def test_of_equals_the_newest(store: PlanStore) -> None:
    keep(store, key(optimization_level=0), b"old", age_s=100)
    new = keep(store, key(optimization_level=1), b"new")
    assert store.find(GRAPH, machine(), max_batch=16) == (new, b"new")


# --- damage -------------------------------------------------------------------------------


def test_a_truncated_plan_is_not_loaded(store: PlanStore) -> None:
    kept = keep(store, key(), b"x" * 1000)
    store.path(kept).write_bytes(b"x" * 400)
    with pytest.raises(EngineDamagedError, match="400 bytes, but 1000 were written"):
        store.read(kept)


def test_a_changed_plan_is_not_loaded(store: PlanStore) -> None:
    kept = keep(store, key(), b"x" * 1000)
    store.path(kept).write_bytes(b"y" * 1000)
    with pytest.raises(EngineDamagedError, match="sha256"):
        store.read(kept)


def test_a_plan_that_is_gone_is_not_loaded(store: PlanStore) -> None:
    kept = keep(store, key(), b"plan")
    store.path(kept).unlink()
    with pytest.raises(EngineDamagedError, match="No such file"):
        store.read(kept)


def test_a_damaged_plan_does_not_hide_an_intact_one(
    store: PlanStore, caplog: pytest.LogCaptureFixture
) -> None:
    old = keep(store, key(), b"old", age_s=100)
    new = keep(store, key(optimization_level=5), b"new")
    store.path(new).write_bytes(b"n")
    assert store.find(GRAPH, machine(), max_batch=16) == (old, b"old")
    assert "1 bytes, but 3 were written" in caplog.text
    store.path(old).unlink()
    with pytest.raises(EngineDamagedError, match="1 bytes, but 3 were written"):
        store.find(GRAPH, machine(), max_batch=16)


def test_a_plan_built_again_while_it_is_looked_for_is_found(
    store: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the record and the look at the file another process is done."""
    keep(store, key(), b"old")
    real, listed = store.records, []

    def records() -> list[PlanRecord]:
        found = real()
        if not listed:
            listed.append(keep(store, key(), b"new"))
        return found

    monkeypatch.setattr(store, "records", records)
    assert store.find(GRAPH, machine(), max_batch=16) == (listed[0], b"new")


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 2}', b"\xff\xfe"])
def test_a_broken_record_hides_only_itself(store: PlanStore, content: bytes) -> None:
    kept = keep(store, key(), b"plan")
    (store.folder / "0000.json").write_bytes(content)
    assert store.records() == [kept]


def test_a_record_under_another_name_is_not_taken_for_it(store: PlanStore) -> None:
    other = key(machine(A10))
    keep(store, other, b"plan")
    (store.folder / f"{other.id}.json").rename(store.folder / f"{key().id}.json")
    assert store.get(key()) is None


# --- writing ------------------------------------------------------------------------------


def test_a_new_plan_replaces_the_old_one_and_its_file(store: PlanStore) -> None:
    keep(store, key(), b"old")
    new = keep(store, key(), b"new")
    assert store.read(new) == b"new"
    assert len([*store.folder.glob("*.plan")]) == 1


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("t", {this!r})
t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = t.PlanStore(Path({folder!r}))
plan = b"n" * 200_000
try: store.save(t.record(t.key(), plan), plan)
except t.EngineStoreError as error: print(error.code)
"""


def test_a_disk_that_fills_up_leaves_the_last_good_plan(store: PlanStore) -> None:
    """The kernel really cuts the write off, in a process that may write 100 kB a file."""
    good = keep(store, key(), b"good")
    tests = str(Path(__file__).parents[3])
    code = DISK_FULL.format(tests=tests, this=__file__, folder=str(store.folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "engine.store", done.stderr
    assert store.get(key()) == good
    assert store.read(good) == b"good"
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".json", ".plan"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(EngineStoreError, match="cannot be written"),
        PlanStore(tmp_path / "file").lock(key()),
    ):
        pass


def test_a_process_killed_between_plan_and_record_leaves_the_old_plan(store: PlanStore) -> None:
    old = keep(store, key(), b"old")
    orphan = record(key(), b"new")
    store.path(orphan).write_bytes(b"new")  # and then the power went
    assert store.get(key()) == old
    assert store.read(old) == b"old"
    keep(store, key(), b"newer")
    assert len([*store.folder.glob("*.plan")]) == 1


def test_who_comes_second_is_told_and_waits(store: PlanStore) -> None:
    order: list[str] = []
    held, told = threading.Event(), threading.Event()

    def first() -> None:
        with store.lock(key()):
            held.set()
            assert told.wait(60)
            order.append("first")

    def waiting() -> None:
        order.append("waiting")
        told.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(60)
    with store.lock(key(), on_wait=waiting):
        order.append("second")
    thread.join()
    assert order == ["waiting", "first", "second"]


def test_another_plan_is_not_waited_for(store: PlanStore) -> None:
    with store.lock(key()), store.lock(key(tf32=True), on_wait=lambda: pytest.fail("waits")):
        pass


def test_timings_are_kept_by_gpu_and_version(store: PlanStore) -> None:
    store.save_timings(machine(), b"timings")
    assert store.timings(machine()) == b"timings"
    assert store.timings(machine(A10)) == b""
    assert store.timings(machine(version="11.5")) == b""


def test_removing_takes_record_and_plan(store: PlanStore) -> None:
    store.remove(keep(store, key(), b"plan"))
    assert [*store.folder.iterdir()] == []


def test_the_record_is_readable_json(store: PlanStore) -> None:
    keep(store, key(), b"plan")
    document = json.loads((store.folder / f"{key().id}.json").read_text())
    assert document["key"]["device"] == "NVIDIA L4"


def test_a_plan_of_release_0_1_is_read(store: PlanStore) -> None:
    old = keep(store, key().model_copy(update={"refittable": True}), b"plan")
    path = store.folder / f"{old.key.id}.json"
    document = json.loads(path.read_text()) | {"architecture_sha256": "b" * 64}
    path.write_text(json.dumps(document | {"refitted_from": None}))
    assert store.records() == [old]
