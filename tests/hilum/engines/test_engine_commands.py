"""`hilum doctor`, and `hilum engine list` and `remove`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from support.fake_cuda import FakeCuda
from support.plans import put_plan

from hilum.commands.doctor import doctor, examine
from hilum.commands.engine import engine as engine_command
from hilum.engines.tensorrt.store import PlanStore
from hilum.packages.load import Package
from hilum.settings import Settings

Config = Callable[..., Settings]


def test_the_doctor_sees_the_gpu_and_the_engine(trt: Any, package: Package, config: Config) -> None:
    settings = config()
    put_plan(package, settings.engine_dir)
    report = examine(settings, str(package.folder))
    assert report["gpu"]["name"] == "NVIDIA L4"
    assert report["tensorrt"]["library"] == "TensorRT 11.4.0.106"
    assert report["tensorrt"]["plans"] == 1
    assert report["engine"]["name"] == "tensorrt-11.4.0.106-sm89-fp32"
    assert report["engine"]["because"] == "there is a GPU and a TensorRT plan for it"


def test_the_doctor_says_what_is_missing(
    gpu: FakeCuda, ordinary: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.devices = 0
    done = CliRunner().invoke(doctor, ["--model", str(ordinary.folder)])
    assert done.exit_code == 0
    assert "the driver sees no GPU" in done.output
    assert "onnxruntime-cpu (HILUM_ENGINE=auto)" in done.output

    monkeypatch.setenv("HILUM_ENGINE", "tensorrt")
    done = CliRunner().invoke(doctor, ["--model", str(ordinary.folder), "--json"])
    assert done.exit_code == 2
    error = json.loads(done.output)["engine"]["error"]
    assert error["code"] == "engine.unavailable"


def test_the_doctor_survives_a_missing_model(gpu: FakeCuda) -> None:
    done = CliRunner().invoke(doctor, ["--model", "/nowhere", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.output)["engine"]["error"]["code"] == "package.missing"


def test_plans_are_listed_with_whether_they_run_here(
    gpu: FakeCuda,
    trt: Any,
    package: Package,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = config().engine_dir
    monkeypatch.setenv("HILUM_TENSORRT__ENGINE_DIR", str(folder))
    record = put_plan(package, folder)
    run = CliRunner().invoke
    assert "runs here" in run(engine_command, ["list"]).output
    gpu.properties.name = b"NVIDIA A10"
    listed = json.loads(run(engine_command, ["list", str(package.folder), "--json"]).output)
    assert (listed["id"], listed["runs_here"]) == (record.key.id, False)
    assert "this is NVIDIA A10" in listed["why"]
    PlanStore(folder).path(record).write_bytes(b"")
    assert "0 bytes" in run(engine_command, ["list"]).output
    assert run(engine_command, ["remove", record.key.id[:8]]).exit_code == 0
    assert run(engine_command, ["list"]).output == ""


def test_what_refit_was_is_answered(
    gpu: FakeCuda,
    trt: Any,
    package: Package,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = config().engine_dir
    monkeypatch.setenv("HILUM_TENSORRT__ENGINE_DIR", str(folder))
    put_plan(package, folder)
    run = CliRunner().invoke
    refitted = run(engine_command, ["refit", str(package.folder), "--json"])
    assert refitted.exit_code == 2
    assert "`hilum engine build PACKAGE`" in refitted.output
    built = run(engine_command, ["build", str(package.folder), "--refittable"])
    assert built.exit_code == 0, built.output
    assert "--refittable has no effect" in built.output
