"""`hilum export`: graphs of every precision, what they lose, and what is refused."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support import tiny_backbone
from support.small_backbones import images
from support.small_export import IDENTITY, Small

from export import package as exporting
from export import precision, variants
from export.errors import PrecisionError, WriteError
from export.onnx import export as export_graph
from export.package import Precisions, build
from hilum.cli import main
from hilum.engines.loading import check_golden, open_engine
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.errors import GoldenCheckError
from hilum.packages.load import Package, verify
from hilum.packages.manifest import GOLDEN, GRAPH, PARITY, VALIDATION, Manifest, Precision, Target
from hilum.settings import Settings
from trainer.backbones import build as build_model


def make(small: Small, target: Path, **wanted: Precision) -> Manifest:
    chosen: dict[Any, Precision] = dict(wanted)
    return build(
        small.checkpoint,
        target,
        IDENTITY,
        cache_dir=small.cache,
        precisions=Precisions(wanted=chosen, films=12),
    )


@pytest.fixture(scope="module")
def graph(small: Small) -> bytes:
    """The float32 graph of the checkpoint."""
    return export_graph(small.checkpoint.model, "multi_label", size=64)


@pytest.fixture(scope="module", autouse=True)
def _export_once(graph: bytes) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "export_graph", lambda *_, **__: graph)
        yield


@pytest.fixture(scope="module")
def mixed(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """int8 on the CPU, fp16 for TensorRT."""
    folder = tmp_path_factory.mktemp("mixed") / "package"
    make(small, folder, cpu="int8", tensorrt="fp16")
    return verify(folder)


def test_each_engine_finds_its_graph(mixed: Package) -> None:
    manifest = mixed.manifest
    assert manifest.graph_for("cpu").graph == "variants/int8-cpu.onnx"
    assert manifest.graph_for("tensorrt").precision == "fp16"
    engine = open_engine(mixed, Settings())
    assert engine.name == "onnxruntime-cpu-int8"
    plain = manifest.model_copy(update={"variants": ()})
    assert plain.graph_for("tensorrt").graph == GRAPH
    assert plain.digest != manifest.digest


def test_the_parity_report_says_how_far_each_graph_is_from_pytorch(mixed: Package) -> None:
    report = json.loads((mixed.folder / PARITY).read_text())
    plain, int8, fp16 = report["graphs"]
    assert report["films"] == 24
    assert 0 < plain["max_dp"] <= 1e-5
    assert plain["max_dp"] < fp16["max_dp"] <= precision.MAX_FP16_DP
    assert fp16["max_dp"] < int8["max_dp"]
    for entry in (plain, int8, fp16):
        assert 0 <= entry["p99_dp"] <= entry["max_dp"]
        assert 0 < entry["p99_dcam"] <= entry["max_dcam"]
    losses = int8["auroc_loss_test"]
    assert losses["macro"]["loss"] <= precision.MAX_AUROC_LOSS
    low, high = losses["macro"]["interval"]
    assert low <= losses["macro"]["loss"] <= high
    assert losses["labels"]["Cardiomegaly"] == {"loss": None, "interval": None}  # no positive


def test_golden_outputs_are_those_of_each_graph(mixed: Package) -> None:
    variant = mixed.manifest.graph_for("cpu")
    with np.load(mixed.folder / GOLDEN) as plain, np.load(mixed.folder / variant.golden) as own:
        np.testing.assert_array_equal(plain["image"], own["image"])
        assert np.abs(plain["probability"] - own["probability"]).max() > 1e-4
    engine = OnnxRuntimeEngine(mixed)
    check_golden(engine, mixed)
    wrong = mixed.manifest.model_copy(update={"variants": ()})
    with pytest.raises(GoldenCheckError):
        check_golden(engine, Package(mixed.folder, wrong))  # the float32 graph's outputs


def test_validation_outputs_are_kept_without_a_name(mixed: Package) -> None:
    with np.load(mixed.folder / VALIDATION) as arrays:
        assert arrays["raw"].shape == arrays["targets"].shape == (24, 6)
        assert arrays["patients"].tolist() == [*range(24)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", {}),
        ("fp16", {"tensorrt": "fp16"}),
        ("int8", {"cpu": "int8", "tensorrt": "int8"}),
        ("cpu=int8,tensorrt=bf16", {"cpu": "int8", "tensorrt": "bf16"}),
        ("cpu=fp32", {}),
    ],
)
def test_what_precision_means(text: str, expected: dict[Target, Precision]) -> None:
    assert precision.parse(text) == expected


@pytest.mark.parametrize("text", ["int4", "gpu=fp16", "cpu=fp16", "fp16,int8", ""])
def test_precisions_that_are_not_known(text: str) -> None:
    with pytest.raises(PrecisionError):
        precision.parse(text)


@pytest.fixture(scope="module")
def ranked() -> Iterator[bytes]:
    """A graph of few, narrow layers; how much each of them hurts is found out once: it takes a
    session for each."""
    with tiny_backbone.registered():
        graph = export_graph(build_model(tiny_backbone.NAME, 6).eval(), "multi_label", size=64)
    real = precision.sensitivity
    known: list[dict[str, float]] = []

    def sensitivity(*arguments: Any) -> dict[str, float]:
        if not known:
            known.append(real(*arguments))
        return known[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "sensitivity", sensitivity)
        yield graph


def test_int8_that_costs_too_much_is_refused_and_names_the_layers(
    ranked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_KEPT_SHARE", 0.1)  # one layer
    films = images("resnet18", 2).numpy()
    with pytest.raises(PrecisionError, match=r"0\.2000 with 1 of 12 .*features\.\d") as caught:
        precision.make(
            ranked, {"cpu": "int8"}, films=films, validation=films[:1], judge=lambda _raw: 0.2
        )
    assert caught.value.code == "export.precision"


def test_a_refusal_leaves_nothing(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants.precision, "MAX_FP16_DP", 1e-9)
    with pytest.raises(PrecisionError, match="fp16"):
        make(small, tmp_path / "p", tensorrt="fp16")
    assert not [*tmp_path.iterdir()]


def test_int8_that_costs_too_much_on_test_names_the_layers_too(ranked: bytes) -> None:
    """Validation let it pass with every layer in int8, so nothing had been ranked."""
    films = images("resnet18", 2).numpy()
    (made,) = precision.make(
        ranked, {"cpu": "int8"}, films=films, validation=films[:1], judge=lambda _raw: 0.0
    )
    certain = {"Effusion": {"loss": 0.2, "interval": (0.1, 0.3)}}
    named = r"already in float32: none\. The most harmful layers .*features\.\d.* \(\d\.\d+\)\.$"
    for macro, labels in ((0.2, {}), (0.0, certain)):
        losses = {"macro": {"loss": macro}, "labels": labels}
        with pytest.raises(PrecisionError) as caught:
            variants._check(made, {"max_dp": 0.1, "auroc_loss_test": losses})
        assert re.search(named, caught.value.detail)
        assert caught.value.detail.count(" (0.") == 5


def test_layers_that_hurt_go_back_to_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst first, twice as many each time, until validation loses no more than allowed."""
    losses = iter([0.2, 0.1, 0.004])
    kept: list[set[str]] = []

    class Calibrated:
        def __init__(self) -> None:
            self.layers = {f"node{n}": f"layer{n}" for n in range(20)}

    def quantise(*_: object, keep: Set[str], **__: object) -> bytes:
        kept.append(set(keep))
        return b""

    monkeypatch.setattr(precision.int8, "quantise", quantise)
    monkeypatch.setattr(precision, "_as_on", lambda _target, graph: graph)
    monkeypatch.setattr(precision, "run", lambda *_: _Raw())
    harm = {f"layer{n}": 1.0 / (1 + n) for n in range(20)}
    monkeypatch.setattr(precision, "sensitivity", lambda *_: harm)
    made = precision._int8(
        Calibrated(),  # type: ignore[arg-type]
        "cpu",
        b"",
        np.zeros((4, 1, 8, 8), np.uint8),
        lambda _raw: next(losses),
    )
    assert kept == [set(), {"layer0"}, {"layer0", "layer1"}]
    assert made.kept == ("layer0", "layer1")


class _Raw:
    raw = np.zeros((4, 2))


def test_a_full_disk_leaves_the_last_package(
    small: Small, mixed: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Path(shutil.copytree(mixed.folder, tmp_path / "package"))
    before = mixed.digest

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "write_golden", full)
    with pytest.raises(WriteError, match="No space left on device") as caught:
        make(small, target)
    assert caught.value.code == "export.write"
    assert verify(target).digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_the_command(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_CACHE_DIR", str(small.cache.parent))
    arguments = ["export", str(small.folder), "--to", str(tmp_path / "p"), "--name", "small"]
    arguments += ["--version", "2", "--intended-use", "Tests.", "--licence", "x"]
    done = CliRunner().invoke(main, [*arguments, "--precision", "tensorrt=bf16"])
    assert done.exit_code == 0, done.output
    assert "bf16  tensorrt" in done.output
    assert "AUROC lost" in done.output
    assert verify(tmp_path / "p").manifest.version == "2"
    wrong = CliRunner().invoke(main, [*arguments, "--precision", "int4"])
    assert wrong.exit_code == 2
    assert "[export.precision]" in wrong.output
