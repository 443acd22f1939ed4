"""docs/start/tutorial.md: every command there is, run in its order on a folder like the NIH's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hilum.cli import main as hilum
from hilum.packages.labels import CHESTXRAY14
from hilum.packages.load import verify
from trainer.ablation import plan

ROOT = Path(__file__).parents[2]
# Starts servers, or takes minutes; `hilum demo` is run by tests/e2e/test_demo.py.
LEFT_OUT = ("HILUM_MODEL_URI=models/chestxray14 hilum demo --once",)
TINY = """
seed = 0
manifest = "var/chestxray14/manifest.parquet"
[model]
backbone = "tiny"
weights = "random"
label_schema = "chestxray14-v1"
[preprocess]
size = 32
[optimiser]
batch_size = 16
[[stages]]
epochs = 1
size = 32
learning_rate = 1e-3
"""


def _commands(text: str) -> Iterator[list[str]]:
    """The lines of the ``sh`` blocks."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            if line.strip() and line not in LEFT_OUT:
                yield shlex.split(line)


def _raw_folder(folder: Path) -> None:
    """Twenty-four patients of two films, as the archives unpack."""
    labels = ["No Finding", *CHESTXRAY14.labels]
    rng = np.random.default_rng(0)
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for n in range(48):
        name = f"{n // 2 + 1:08d}_{n % 2:03d}.png"
        path = folder / f"images_{1 + n // 24:03d}" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = labels[n % 15] if n % 4 else f"{labels[1 + n % 14]}|{labels[1 + (n + 5) % 14]}"
        grey = rng.integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(grey).save(path)
        view = "AP" if n % 3 else "PA"
        rows.append(f"{name},{found},0,{n // 2 + 1},{30 + n},{'FM'[n % 4 // 2]},{view},36,40,.1,.1")
        lists["test_list.txt" if n >= 32 else "train_val_list.txt"].append(name)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000020_001.png,Effusion,3,4,10,12,,,\n"
    (folder / "BBox_List_2017.csv").write_text(boxes)
    for name, images in lists.items():
        (folder / name).write_text("\n".join(images) + "\n")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_from_the_raw_folder_to_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/start/tutorial.md").read_text()
    road, rehearsal = text.split("## Rehearsal")
    assert all(line in road for line in LEFT_OUT)
    _raw_folder(tmp_path / "nih")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "chestxray14.toml").write_text(TINY)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "samples").symlink_to(ROOT / "models" / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HILUM_CACHE_DIR", str(tmp_path / "cache"))
    ran = 0
    for program, *arguments in _commands(road):
        if program == "mkdir":
            subprocess.run([program, *arguments], check=True)
            continue
        assert program == "hilum"
        done = CliRunner().invoke(hilum, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output}"
        ran += 1
    assert ran == 8
    served = json.loads((tmp_path / "var/chestxray14/served/metrics.json").read_text())
    assert served["model"]["identity"] == verify(tmp_path / "models" / "chestxray14").digest
    assert served["calibration"]["fitted_on"] == "as shipped"
    assert served["test"]["images"] == 16
    assert served["test"]["published"]["comparable"] == [], "sixteen films are no official test"
    checkpoint = json.loads((tmp_path / "var/chestxray14/report/metrics.json").read_text())
    # One model, measured in PyTorch and in the engine that serves it.
    mine, theirs = (figures["test"]["labels"] for figures in (checkpoint, served))
    for label in CHESTXRAY14.labels:
        if mine[label]["auroc"] is not None:
            assert mine[label]["auroc"] == pytest.approx(theirs[label]["auroc"], abs=0.11)
    for program, *arguments in _commands(rehearsal):
        assert program == "hilum"
        _parses(hilum, arguments)


def _parses(command: click.Command, arguments: list[str]) -> None:
    """Every sub-command and option of ``arguments`` is there."""
    if arguments[0] == "train" and arguments[1].endswith(".toml"):
        arguments = ["train", "run", *arguments[1:]]  # as TrainGroup does
    context = click.Context(command, info_name="hilum")
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(context, arguments)
        if command is None:
            raise AssertionError(f"no such command: {name}")
        context = click.Context(command, parent=context, info_name=name)
    known = {option for parameter in command.params for option in parameter.opts}
    used = {argument for argument in arguments if argument.startswith("--")}
    assert used <= known, f"{context.command_path}: {sorted(used - known)}"


@pytest.mark.parametrize("name", ["ablation", "ablation-synthetic"])
def test_ablations_of_the_repository_are_valid(name: str) -> None:
    loaded = plan.load(ROOT / "configs" / f"{name}.toml")
    assert {"alexnet", "resnet50", "resnet152", "inception_v3"} == {
        backbone.name for backbone in loaded.backbones
    }
