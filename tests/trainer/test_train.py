"""The loop, from configuration to checkpoint to package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.squares import write_config, write_dataset

from export.errors import ExportError
from export.package import Identity, build
from hilum.engines.loading import check_golden
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.errors import ConfigurationError, UnknownBackboneError
from hilum.packages.load import verify
from hilum.packages.manifest import METRICS, NOTICE
from hilum.settings import Settings
from trainer import checkpoint, config, loop
from trainer.backbones import Classifier
from trainer.cli import train as command
from trainer.errors import CheckpointError, TrainingDivergedError, WeightsMissingError

ConfigFile = Callable[..., Path]


def _train(file: Path, out: Path, settings: Settings) -> Path:
    return loop.train(config.load(file), out, settings=settings)


_SIX = "[[stages]]\nepochs = 6\nsize = 64\nlearning_rate = 3e-3\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs with its data, for the tests that only read it: ``run``, ``cache``."""
    folder = tmp_path_factory.mktemp("trained")
    file = write_config(folder, write_dataset(folder), stages=_SIX)
    _train(file, folder / "run", Settings(cache_dir=folder / "cache"))
    return folder


def test_it_learns(trained: Path) -> None:
    """That the same seed gives the same weights is in test_resume.py, after a kill at that."""
    record = checkpoint.load(trained / "run" / "last").record
    assert record.epoch == 6
    assert record.config == config.load(trained / "config.toml")
    assert record.history[-1]["loss"] < 0.8 * record.history[0]["loss"]


def test_checkpoint_to_package(trained: Path, tmp_path: Path) -> None:
    best, cache = trained / "run" / "best", trained / "cache" / "prepared"
    identity = Identity(
        name="tiny",
        version="0.1",
        intended_use="A test.",
        licence="Apache-2.0",
        demonstration_only=True,
        data="Squares.",
        training="A moment.",
    )
    target = tmp_path / "package"
    manifest = build(
        checkpoint.load(best),
        target,
        identity,
        cache_dir=cache,
        weights_dtype="float16",
    )
    package = verify(target)
    assert package.digest == manifest.digest
    engine = OnnxRuntimeEngine(package)
    check_golden(engine, package)
    figures = json.loads((target / METRICS).read_text())
    assert figures["notice"] == NOTICE
    assert figures["test"]["images"] == 12
    # Labels that no film has are undefined, not perfect and not worthless.
    assert figures["test"]["labels"]["Cardiomegaly"]["auroc"] is None
    assert 0 <= figures["test"]["labels"]["Effusion"]["auroc"] <= 1
    assert NOTICE in (target / "MODEL_CARD.md").read_text()
    # The package computes what the checkpoint does, up to half-precision weights.
    image = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    with torch.no_grad():
        expected = checkpoint.load(best).model(torch.from_numpy(image)).sigmoid().numpy()
    assert np.abs(engine.run(image).probability - expected).max() < 5e-3
    # A folder with something else in it is not replaced.
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ExportError, match="neither empty nor a model package"):
        build(checkpoint.load(best), other, identity, cache_dir=cache)
    assert (other / "thesis.txt").read_text() == "precious"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = "[[stages]]\nepochs = 3\nsize = 64\nlearning_rate = 1e-3\n"
    calls = 0
    forward = Classifier.forward_training

    def breaking(self: Classifier, image: torch.Tensor) -> object:
        nonlocal calls
        calls += 1
        logits, activation, auxiliary = forward(self, image)
        # 3 batches an epoch: the second epoch breaks down in its second batch.
        return (logits * float("nan") if calls == 5 else logits), activation, auxiliary

    monkeypatch.setattr(Classifier, "forward_training", breaking)
    with pytest.raises(TrainingDivergedError, match="batch 2"):
        _train(config_file(stages=stages), tmp_path / "out", settings)
    kept = checkpoint.load(tmp_path / "out" / "best")
    assert kept.record.epoch == 1
    assert all(torch.isfinite(value).all() for value in kept.model.state_dict().values())


def test_missing_weights_are_an_error_never_a_random_start(
    config_file: ConfigFile, settings: Settings, tmp_path: Path
) -> None:
    for weights in ("/nowhere/resnet18.pth", "s3://nowhere/resnet18.pth"):
        model = f'[model]\nbackbone = "resnet18"\nweights = "{weights}"\n'
        file = config_file(model=model + 'label_schema = "synthetic-v1"\n')
        with pytest.raises(WeightsMissingError):
            _train(file, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    no_weights = '[model]\nbackbone = "resnet18"\nlabel_schema = "synthetic-v1"\n'
    with pytest.raises(ConfigurationError, match=r"model\.weights"):
        config.load(config_file(model=no_weights))


def test_unknown_backbone(config_file: ConfigFile, settings: Settings, tmp_path: Path) -> None:
    model = '[model]\nbackbone = "vgg"\nweights = "random"\nlabel_schema = "synthetic-v1"\n'
    with pytest.raises(UnknownBackboneError, match="vgg"):
        _train(config_file(model=model), tmp_path / "out", settings)


def test_damaged_checkpoints_are_refused(trained: Path, tmp_path: Path) -> None:
    best = Path(shutil.copytree(trained / "run" / "best", tmp_path / "best"))
    record = json.loads((best / checkpoint.RECORD).read_text())
    record["config"]["model"]["backbone"] = "resnet50"
    (best / checkpoint.RECORD).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="not those of a resnet50"):
        checkpoint.load(best)
    (weights,) = best.glob("*.safetensors")
    weights.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(best)
    (best / checkpoint.RECORD).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json"):
        checkpoint.load(best)


def test_the_command_prints_where_the_checkpoint_is(
    config_file: ConfigFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_CACHE_DIR", str(tmp_path / "cache"))
    file = config_file(stages="[[stages]]\nepochs = 1\nsize = 64\n")
    done = CliRunner().invoke(command, [str(file), "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == tmp_path / "out" / "best"
