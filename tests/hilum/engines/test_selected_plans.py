"""The plan an engine is opened with: found, built where the settings say so, never one that is
refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.fake_cuda import FakeCuda
from support.plans import SIDE, put_plan

from hilum.commands.engine import engine as engine_command
from hilum.engines.loading import open_engine
from hilum.engines.tensorrt.record import BuildOptions, profile_of
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import (
    EngineIncompatibleError,
)
from hilum.packages.load import Package
from hilum.settings import Settings

Config = Callable[..., Settings]


def test_a_missing_or_damaged_plan_is_built_where_the_settings_say_so(
    trt: Any, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hilum.engines import loading

    package = ordinary  # the fake builder's plans run the graph

    settings = config("tensorrt", on_missing="build")
    built: list[BuildOptions] = []

    real = loading.build_into

    def build_into(store: PlanStore, package: Package, options: BuildOptions, **more: Any) -> Any:
        built.append(options)
        return real(store, package, options, **more)

    monkeypatch.setattr(loading, "build_into", build_into)
    assert open_engine(package, settings).name.startswith("tensorrt-")
    assert built[0].profile == (1, 8, 16)
    open_engine(package, settings)
    assert len(built) == 1  # there now
    (plan,) = settings.engine_dir.glob("*.plan")
    plan.write_bytes(b"cut short")
    open_engine(package, settings)
    assert len(built) == 2


def test_a_plan_that_tensorrt_refuses_is_built_again_once(
    trt: Any, ordinary: Package, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """It is intact and fits by its key: nothing but loading it tells."""
    put_plan(ordinary, config().engine_dir, plan=b"of a TensorRT with another patch")
    with pytest.raises(EngineIncompatibleError, match="cannot load the plan"):
        open_engine(ordinary, config("tensorrt"))
    settings = config("tensorrt", on_missing="build")
    with caplog.at_level(logging.INFO):
        assert open_engine(ordinary, settings).name.startswith("tensorrt-")
    assert trt.state.builds == 1
    open_engine(ordinary, settings)
    assert trt.state.builds == 1
    said = {r.getMessage(): r.fields for r in caplog.records if hasattr(r, "fields")}
    assert said["engine.building"] == {"because": "engine.incompatible"}
    assert said["engine.build_phase"] == {"phase": "Building engine"}
    assert said["engine.built"]["new"] is True


def test_a_plan_that_is_refused_again_is_not_built_for_ever(
    trt: Any, ordinary: Package, config: Config
) -> None:
    settings = config("tensorrt", on_missing="build")
    put_plan(ordinary, settings.engine_dir)
    trt.state.failing["deserialize_cuda_engine"] = [None, None]
    with pytest.raises(EngineIncompatibleError):
        open_engine(ordinary, settings)
    assert trt.state.builds == 1


def test_who_waited_for_a_build_takes_the_plan_that_was_built(
    trt: Any, ordinary: Package, config: Config
) -> None:
    """Of two workers that meet the same plan, the second does not build it again."""
    from hilum.engines.tensorrt.provision import build_into

    settings = config("tensorrt", on_missing="build")
    old = put_plan(ordinary, settings.engine_dir, plan=b"refused")
    store = PlanStore(settings.engine_dir)
    options = BuildOptions(profile=profile_of(ordinary.manifest, batch_size=8))
    first = build_into(store, ordinary, options, refused=old.plan_sha256)
    second = build_into(store, ordinary, options, refused=old.plan_sha256)
    assert (first.new, second.new) == (True, False)
    assert first.plan == second.plan == store.read(first.record)


def test_a_plan_built_for_smaller_batches_is_used(
    trt: Any, ordinary: Package, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("tensorrt")
    monkeypatch.setenv("HILUM_TENSORRT__ENGINE_DIR", str(settings.engine_dir))
    arguments = ["build", str(ordinary.folder), "--max-batch", "2"]
    done = CliRunner().invoke(engine_command, arguments)
    assert done.exit_code == 0, done.output
    engine = open_engine(ordinary, settings)
    images = np.random.default_rng(0).integers(0, 256, (5, 1, SIDE, SIDE), dtype=np.uint8)
    cpu = open_engine(ordinary, config("onnxruntime")).run(images)
    np.testing.assert_allclose(engine.run(images).probability, cpu.probability, atol=1e-6)
    assert max(trt.state.executions) == 2


def test_the_setting_streams_has_no_effect_and_says_so(
    gpu: FakeCuda,
    trt: Any,
    package: Package,
    config: Config,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_plan(package, config().engine_dir)
    taken = []
    for more in ({}, {"streams": 2}):
        assert "HILUM_TENSORRT__STREAMS" not in caplog.text
        before = sum(gpu.on_device.values())
        open_engine(package, config("tensorrt", **more))
        taken.append(sum(gpu.on_device.values()) - before)
    assert taken[0] == taken[1]
    assert "HILUM_TENSORRT__STREAMS has no effect" in caplog.text
