"""Getting a plan: really built by TensorRT-RTX, by one of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_package

from hilum.engines.tensorrt.provision import build_into
from hilum.engines.tensorrt.record import BuildOptions, profile_of
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineBuildError
from hilum.packages.load import Package, verify
from hilum.packages.manifest import GRAPH

SIDE = 64


@pytest.fixture
def package(tmp_path: Path) -> Package:
    tiny_package.build(tmp_path / "package", size=SIDE)
    return verify(tmp_path / "package")


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "engines")


def options(package: Package, **more: Any) -> BuildOptions:
    profile = profile_of(package.manifest, batch_size=8)
    return BuildOptions(profile=profile, optimization_level=0, **more)


@pytest.mark.usefixtures("rtx")
def test_a_plan_is_built_once(package: Package, store: PlanStore) -> None:
    first = build_into(store, package, options(package))
    again = build_into(store, package, options(package))
    assert (first.new, again.new) == (True, False)
    assert first.record == again.record
    assert len(store.read(first.record)) == first.record.plan_bytes
    key = first.record.key
    assert (key.library, key.device, key.profile) == ("tensorrt_rtx", "any", (1, 8, 16))
    assert key.graph_sha256 == package.manifest.files[GRAPH]


@pytest.mark.usefixtures("rtx")
def test_a_damaged_plan_is_built_again(package: Package, store: PlanStore) -> None:
    first = build_into(store, package, options(package))
    store.path(first.record).write_bytes(b"cut short")
    again = build_into(store, package, options(package))
    assert again.new
    assert store.read(again.record)


@pytest.mark.usefixtures("rtx")
def test_a_build_that_fails_leaves_the_last_good_plan(
    package: Package, store: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = build_into(store, package, options(package)).record

    def broken(*_: Any, **__: Any) -> Any:
        raise EngineBuildError("No.")

    monkeypatch.setattr("hilum.engines.tensorrt.provision.build", broken)
    with pytest.raises(EngineBuildError):
        build_into(store, package, options(package), force=True)
    assert store.get(good.key) == good
    assert store.read(good)


def test_two_processes_build_one_plan(package: Package, tmp_path: Path) -> None:
    """The command, twice at once, with the real builder: one builds, the other takes its plan."""
    environment = os.environ | {
        "HILUM_TENSORRT__LIBRARY": "tensorrt_rtx",
        "HILUM_TENSORRT__ENGINE_DIR": str(tmp_path / "engines"),
        "HILUM_CACHE_DIR": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "hilum", "engine", "build", str(package.folder), "--json"]
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    documents = []
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    assert sorted(document["new"] for document in documents) == [False, True]
    assert documents[0]["plan_sha256"] == documents[1]["plan_sha256"]
    assert len([*(tmp_path / "engines").glob("*.plan")]) == 1
