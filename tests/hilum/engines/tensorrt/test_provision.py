"""Getting a plan: really built by TensorRT-RTX, by one of several processes; refitted on a GPU
that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import tiny_package
from support.fake_cuda import FakeCuda
from support.plans import plan_for, record_of

from hilum.engines.tensorrt.architecture import architecture_sha256
from hilum.engines.tensorrt.options import BuildOptions, profile_of
from hilum.engines.tensorrt.provision import build_into, refit_into
from hilum.engines.tensorrt.record import PlanRecord
from hilum.engines.tensorrt.runtime import TensorRTEngine
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineBuildError, EngineUnavailableError, PackageError, RefitError
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


# --- refit --------------------------------------------------------------------------------


def retrained(package: Package, folder: Path) -> Package:
    """The same graph with other weights."""
    tiny_package.build(folder, size=SIDE, version="2.0.0")
    model = onnx.load(folder / GRAPH)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, "bias"))
    (folder / GRAPH).write_bytes(model.SerializeToString())
    return tiny_package.resealed(folder)


def refittable(store: PlanStore, package: Package, plan: bytes) -> PlanRecord:
    architecture = architecture_sha256(package.read(GRAPH))
    record = record_of(package, plan, options(package, refittable=True), architecture=architecture)
    store.folder.mkdir(exist_ok=True)
    store.save(record, plan)
    return record


def test_new_weights_go_into_the_old_plan(
    trt: Any, package: Package, store: PlanStore, tmp_path: Path
) -> None:
    base = refittable(store, package, plan_for(package, refittable=True))
    new = retrained(package, tmp_path / "new")
    provided = refit_into(store, new)
    assert provided.new
    assert provided.record.refitted_from == base.key.id
    assert provided.record.key.graph_sha256 == new.manifest.files[GRAPH]
    content = json.loads(store.read(provided.record))
    assert content["weights"] == len(new.read(GRAPH))  # of the new graph
    assert store.get(base.key) == base  # the old version is still served
    engine = TensorRTEngine(new, provided.record, store.read(provided.record))
    assert engine.run(np.zeros((1, 1, SIDE, SIDE), dtype=np.uint8)).probability.shape == (1, 6)
    assert not refit_into(store, new).new


def test_a_plan_without_refit_is_not_used(
    trt: Any, package: Package, store: PlanStore, tmp_path: Path
) -> None:
    refittable(store, package, plan_for(package))  # recorded so, but TensorRT says otherwise
    with pytest.raises(RefitError, match="not built to be refitted"):
        refit_into(store, retrained(package, tmp_path / "new"))


def test_another_architecture_finds_no_plan(
    trt: Any, package: Package, store: PlanStore, tmp_path: Path
) -> None:
    refittable(store, package, plan_for(package, refittable=True))
    tiny_package.build(tmp_path / "other", size=96)
    with pytest.raises(RefitError, match="None of the 1 refittable plan"):
        refit_into(store, verify(tmp_path / "other"))


def test_a_plan_of_another_gpu_is_not_refitted(
    gpu: FakeCuda, trt: Any, package: Package, store: PlanStore, tmp_path: Path
) -> None:
    refittable(store, package, plan_for(package, refittable=True))
    gpu.properties.name = b"NVIDIA A10"
    with pytest.raises(RefitError, match="do not run on this machine"):
        refit_into(store, retrained(package, tmp_path / "new"))


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("refit_from_bytes", False, "node conv1 (Conv): it is what it is [INVALID_NODE]"),
        ("refit_cuda_engine", False, "it is what it is"),
        ("serialize", None, "it is what it is"),
    ],
)
def test_no_failure_value_of_a_refit_is_overlooked(
    trt: Any,
    package: Package,
    store: PlanStore,
    tmp_path: Path,
    method: str,
    answer: Any,
    said: str,
) -> None:
    base = refittable(store, package, plan_for(package, refittable=True))
    trt.state.failing[method] = [answer]
    trt.state.said = "it is what it is"
    with pytest.raises(RefitError) as caught:
        refit_into(store, retrained(package, tmp_path / "new"))
    assert said in caught.value.detail
    assert store.records() == [base]


@pytest.mark.parametrize("kind", ["Runtime", "Refitter", "OnnxParserRefitter"])
def test_a_refitter_that_cannot_be_made_is_said(
    trt: Any, package: Package, store: PlanStore, tmp_path: Path, kind: str
) -> None:
    base = refittable(store, package, plan_for(package, refittable=True))
    trt.state.failing[kind] = [None]
    trt.state.said = "it is what it is"
    with pytest.raises(EngineUnavailableError, match=f"no {kind} here: it is what it is"):
        refit_into(store, retrained(package, tmp_path / "new"))
    assert store.records() == [base]


def test_weights_that_the_new_graph_lacks_are_named(
    trt: Any, package: Package, store: PlanStore, tmp_path: Path
) -> None:
    refittable(store, package, plan_for(package, refittable=True))
    trt.state.missing_weights = ["layer4.conv1.weight"]
    with pytest.raises(RefitError, match=r"layer4\.conv1\.weight"):
        refit_into(store, retrained(package, tmp_path / "new"))


# --- architecture -------------------------------------------------------------------------


def change(model: onnx.ModelProto, what: str) -> None:
    node, tensors = model.graph.node[3], {t.name: t for t in model.graph.initializer}
    if what == "weights":
        tensors["weights"].CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensors["weights"]) * 2, "weights")
        )
    elif what == "provenance":
        model.producer_name, model.doc_string = "another exporter", "/home/somebody/model.py"
        node.doc_string = "a stack trace"
    elif what == "operator":
        node.op_type = "ConvTranspose"
    elif what == "wiring":
        node.input[0] = "unit"
    elif what == "attribute":
        node.attribute.add(name="group", i=2, type=onnx.AttributeProto.INT)
    elif what == "shape":
        wide = np.zeros((7, 1, 1, 1), dtype=np.float32)
        tensors["weights"].CopyFrom(numpy_helper.from_array(wide, "weights"))
    elif what == "integers":
        axes = np.array([1, 2], dtype=np.int64)
        tensors["space"].CopyFrom(numpy_helper.from_array(axes, "space"))
    elif what == "precision":
        half = numpy_helper.to_array(tensors["weights"]).astype(np.float16)
        tensors["weights"].CopyFrom(numpy_helper.from_array(half, "weights"))
    elif what == "opset":
        model.opset_import[0].version = 19


@pytest.mark.parametrize("what", ["weights", "provenance"])
def test_what_a_refit_may_change(what: str) -> None:
    assert architecture_after(what) == architecture_after("nothing")


@pytest.mark.parametrize(
    "what", ["operator", "wiring", "attribute", "shape", "integers", "precision", "opset"]
)
def test_what_makes_another_architecture(what: str) -> None:
    assert architecture_after(what) != architecture_after("nothing")


def test_a_graph_cut_short_has_no_architecture() -> None:
    with pytest.raises(PackageError):
        architecture_sha256(tiny_package.graph().SerializeToString()[:-30])


def architecture_after(what: str) -> str:
    model = tiny_package.graph()
    change(model, what)
    return architecture_sha256(model.SerializeToString())
