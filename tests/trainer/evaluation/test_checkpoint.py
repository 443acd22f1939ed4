"""A checkpoint of exclusive classes, from training to its figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hilum.packages.labels import COVID_TB_PNEUMONIA
from hilum.packages.manifest import Calibration, OperatingPoint
from hilum.settings import Settings
from trainer import checkpoint, config, loop, manifest
from trainer.backbones import build
from trainer.evaluation import evaluate as evaluation
from trainer.evaluation import scorer
from trainer.evaluation.evaluate import Options
from trainer.evaluation.scored import Scored
from trainer.evaluation.scorer import Run, TorchEngine
from trainer.manifest import Record

CLASSES = len(COVID_TB_PNEUMONIA.labels)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """64 films, a class each: the quarter that is bright."""
    folder = tmp_path / "classes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    records = []
    for n in range(64):
        pixels, found = rng.normal(90, 10, (64, 64)), n % CLASSES
        pixels[16 * found : 16 * found + 16] += 80
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        targets = tuple(float(k == found) for k in range(CLASSES))
        split = "train" if n < 32 else "val" if n < 48 else "test"
        records.append(Record(uri=f"{n}.png", patient=f"p{n}", split=split, targets=targets))
    path = folder / "manifest.csv"
    manifest.write(path, records, COVID_TB_PNEUMONIA)
    return path


def test_exclusive_classes_from_training_to_figures(
    config_file: Callable[..., Path], films: Path, settings: Settings, tmp_path: Path
) -> None:
    (films.parent / "63.png").unlink()
    file = config_file(
        head=f'seed = 3\nmanifest = "{films}"\n',
        model='[model]\nbackbone = "tiny"\nweights = "random"\n'
        f'label_schema = "{COVID_TB_PNEUMONIA.id}"\n',
        preprocess="[preprocess]\nsize = 48\n",
        loss="[loss]\ngamma = 1.0\n",
        stages="[[stages]]\nepochs = 1\nsize = 48\nlearning_rate = 2e-3\n",
        data="[data]\nmax_bad_fraction = 0.1\n",
    )
    best = loop.train(config.load(file), tmp_path / "run", settings=settings)
    assert checkpoint.load(best).record.validation_auroc is not None
    # One film of 32 is missing: allowed, because it was in training.
    options = Options(replicates=100, gallery=2)
    page = evaluation.evaluate(
        str(best), tmp_path / "out", settings=settings, manifest_path=None, options=options
    )
    figures = json.loads(page.with_name("metrics.json").read_text())
    assert (figures["data"]["listed"], figures["data"]["left_out"]) == (16, 1)
    assert figures["in_sample"] is False
    assert figures["model"]["engine"] == "torch-cuda" or not torch.cuda.is_available()
    assert set(figures["test"]["labels"]) == set(COVID_TB_PNEUMONIA.labels)
    assert len(set(figures["calibration"]["scale"])) == 1, "one temperature"
    for label, row in figures["test"]["labels"].items():
        assert 0 <= row["auroc"] <= 1
        assert figures["corners"]["labels"][label]["whole"] == row["auroc"]
    assert page.read_text().startswith("<!")


def test_corners_are_compared_after_the_same_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that changes nothing loses nothing, although a temperature of exclusive classes
    changes how one of them ranks the films."""
    rng = np.random.default_rng(0)
    raw = rng.dirichlet(np.ones(CLASSES), 200).astype(np.float32)
    targets = np.eye(CLASSES)[rng.integers(0, CLASSES, 200)]
    fitted = Calibration(scale=(4.0,) * CLASSES, shift=(0.0,) * CLASSES)
    calibrated = evaluation.calibrate(raw, fitted, "multi_class")
    record = Record(uri="", patient="p", split="test", targets=())
    point = OperatingPoint(threshold=0.5, rule="fixed")
    scored = Scored(
        schema=COVID_TB_PNEUMONIA,
        records=(record,) * 200,
        sizes=np.ones((200, 2), dtype=np.int32),
        targets=targets,
        probability=calibrated,
        cam=None,
        input_size=8,
        points=dict.fromkeys(COVID_TB_PNEUMONIA.labels, point),
    )

    def unchanged(*_args: Any) -> Run:
        return Run(raw=raw, cam=np.zeros((200, CLASSES, 1, 1), dtype=np.float32))

    monkeypatch.setattr(scorer, "run", unchanged)
    model: Any = type("Model", (), {"engine": None, "schema": COVID_TB_PNEUMONIA})()
    films: Any = type("Films", (), {"images": None})()
    found = evaluation._corners(model, films, scored, fitted, lambda *_: None)
    for row in found["labels"].values():
        assert row["whole"] == row["corners_masked"] == row["corners_only"]
    other = dataclasses.replace(scored, probability=raw)
    before = evaluation.shortcuts.corner_figures(other, calibrated, calibrated)["labels"]
    assert any(row["whole"] != row["corners_masked"] for row in before.values())


def test_the_engine_computes_where_it_is_told() -> None:
    torch.manual_seed(0)
    model = build("tiny", 3).eval()
    assert TorchEngine(model, "multi_label").name == "torch-cpu"
    there = TorchEngine(model, "multi_label", torch.device("meta"))
    assert there.name == "torch-meta"
    places = {value.device.type for value in there._model.state_dict().values()}
    assert places == {"meta"}, "all of the model moves"
    seen: list[str] = []
    there._model.register_forward_pre_hook(lambda _, args: seen.append(args[0].device.type))
    with pytest.raises(NotImplementedError):  # there are no numbers to bring back from there
        there.run(np.zeros((1, 1, 32, 32), dtype=np.uint8))
    assert seen == ["meta"], "films go to the model"
