"""The ablation: equal budgets, cells that are run once, figures that add up."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hilum.errors import ConfigurationError
from hilum.packages.labels import SYNTHETIC
from hilum.settings import Settings
from trainer import loop, manifest
from trainer.ablation import page, plan, run, stats
from trainer.cli import train as command
from trainer.errors import DataError, OutputWriteError
from trainer.manifest import Record

CONFIG = """
title = "A small ablation"
notes = "Squares."
manifest = "{manifest}"
label_schema = "synthetic-v1"
seeds = [0, 1]
replicates = 100
[resplit]
train = 0.5
val = 0.2
test = 0.3
[[backbones]]
name = "tiny"
weights = "random"
size = 32
[losses.bce]
kind = "bce"
[losses.focal]
kind = "focal"
gamma = 1.0
[[frozen]]
epochs = {frozen}
learning_rate = 1e-3
backbone_scale = 0.0
[[fine_tuned]]
epochs = 1
learning_rate = 2e-3
backbone_scale = 1.0
[train.optimiser]
batch_size = 16
ema_decay = 0.3
{more}
"""

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 films of 40 patients; a bright half is an effusion, a dark one a nodule."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    records = []
    for n in range(80):
        effusion, nodule = bool(rng.integers(2)), rng.random() < 0.3
        pixels = rng.normal(110, 10, (32, 32))
        pixels[:, :16] += 60 * effusion
        pixels[:, 16:] -= 60 * nodule
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        targets = (0.0, float(effusion), 0.0, float(nodule), 0.0, float(not (effusion or nodule)))
        records.append(Record(uri=f"{n}.png", patient=f"p{n // 2}", split="train", targets=targets))
    path = folder / "manifest.csv"
    manifest.write(path, records, SYNTHETIC)
    return path


@pytest.fixture
def write(tmp_path: Path, films: Path) -> WriteConfig:
    def write(frozen: int = 1, more: str = "") -> Path:
        path = tmp_path / "ablation.toml"
        path.write_text(CONFIG.format(manifest=films, frozen=frozen, more=more))
        return path

    return write


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """The folder of an ablation of which every cell is finished."""
    out = tmp_path_factory.mktemp("ablation")
    path = out / "config.toml"
    path.write_text(CONFIG.format(manifest=films, frozen=1, more=""))
    config = plan.load(path)
    run.run(config, out, settings=Settings(cache_dir=out / "cache"))
    return out


def test_every_cell_once_and_only_what_is_compared_differs(write: WriteConfig) -> None:
    config = plan.load(write())
    cells = list(plan.cells(config))
    assert len({cell.name for cell in cells}) == len(cells) == 8
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4, "whole comparisons first"
    trained = {(c.arm, c.loss): plan.training_of(config, c, Path("m.csv")) for c in cells[:4]}
    for (arm, loss), one in trained.items():
        other = trained["frozen", "bce"]
        excluded = {"loss", "stages"}
        assert one.model_dump(exclude=excluded) == other.model_dump(exclude=excluded)
        assert one.loss.kind == loss
        assert all((stage.backbone_scale == 0) == (arm == "frozen") for stage in one.stages)
        assert sum(stage.epochs for stage in one.stages) == 1


@pytest.mark.parametrize(
    ("frozen", "more", "message"),
    [
        (2, "", "budgets differ"),
        (1, "patience = 3", "patience"),
        (1, "[train.stages]\nx = 1", "must not set stages"),
        (1, "[train.augmentation]\nflip = true", "flip"),
    ],
)
def test_unfair_or_wrong_configurations(
    write: WriteConfig, frozen: int, more: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan.load(write(frozen, more))


def test_the_new_split_never_shares_a_patient(ran: Path) -> None:
    records = manifest.read(ran / run.MANIFEST, SYNTHETIC)  # refuses what leaks
    count = {split: sum(r.split == split for r in records) for split in ("train", "val", "test")}
    assert count["train"] == pytest.approx(40, abs=6)
    assert count["test"] == pytest.approx(24, abs=6)


def test_finished_cells_are_not_run_again_and_others_are(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming: a cell whose figures are gone, as after a kill, is the only one that is run."""
    config = plan.load(ran / "config.toml")
    settings = Settings(cache_dir=ran / "cache")
    seen: list[str] = []
    run.run(config, ran, settings=settings, begun=lambda c, n, of: seen.append(c.name))
    assert seen == []
    lost = ran / run.CELLS / "tiny-fine_tuned-focal-seed1" / "cell.json"
    before = json.loads(lost.read_text())
    outputs = np.load(lost.with_name("test.npz"))["probability"]
    lost.unlink()

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run, "write_atomically", full)
        with pytest.raises(OutputWriteError, match="No space left"):
            run.run(config, ran, settings=settings)
    assert not lost.exists()
    run.run(config, ran, settings=settings, begun=lambda c, n, of: seen.append(c.name))
    assert seen == ["tiny-fine_tuned-focal-seed1"]
    after = json.loads(lost.read_text())
    assert after["points"] == before["points"], "the same cell gives the same figures"
    assert np.array_equal(np.load(lost.with_name("test.npz"))["probability"], outputs)
    assert not (lost.parent / "run").exists(), "checkpoints of finished cells are gone"
    # A cell of another configuration is not taken for this one.
    other = config.model_copy(update={"losses": {**config.losses, "bce": {"kind": "focal"}}})
    todo: list[str] = []

    class Stop(Exception):
        pass

    def stop(*_args: object, **_kwargs: object) -> Path:
        raise Stop

    monkeypatch.setattr(loop, "train", stop)
    with pytest.raises(Stop):
        run.run(other, ran, settings=settings, begun=lambda c, n, of: todo.append(c.name))
    assert todo == ["tiny-frozen-bce-seed0"]


def test_gains_are_differences_of_means_over_seeds(ran: Path) -> None:
    config = plan.load(ran / "config.toml")
    found = run.read_finished(config, ran)
    made = stats.groups(config, found)
    before = made.get(("tiny", "frozen", "bce"))
    after = made.get(("tiny", "fine_tuned", "focal"))
    assert before is not None
    assert after is not None
    assert before.seeds == (0, 1)
    old, new = before.estimate("auroc"), after.estimate("auroc")
    assert old.lowest <= old.value <= old.highest
    gain = stats.gain(before, after, "auroc")
    assert gain.absolute == pytest.approx(new.value - old.value)
    assert gain.relative == pytest.approx((new.value - old.value) / old.value)
    assert gain.absolute_interval is not None
    low, high = gain.absolute_interval
    assert low <= high
    # Paired: a group gains nothing over itself, in any draw.
    nothing = stats.gain(before, before, "f1")
    assert (nothing.absolute, nothing.absolute_interval) == (0, (0, 0))


def test_the_page(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ran / "docs" / "ablation.md"
    args = ["ablate", str(ran / "config.toml"), "--to", str(ran), "--report", str(page)]
    done = CliRunner().invoke(command, [*args, "--report-only"])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| tiny | AUROC, macro"))
    numbers = [float(n) for n in re.findall(r"(?<![\d.])[+-]?\d\.\d{3}", row)]
    config = plan.load(ran / "config.toml")
    made = stats.groups(config, run.read_finished(config, ran))
    before = made.get(("tiny", "frozen", "bce"))
    assert before is not None
    assert numbers[0] == pytest.approx(before.estimate("auroc").value, abs=5e-4)
    assert "Squares." in text
    assert "cells are finished" not in text
    assert "| Cardiomegaly | 0 | – |" in text
    svg = page.with_suffix(".svg").read_text()
    assert svg.startswith("<svg")
    assert "tiny" in svg


def test_a_stopped_ablation_gains_over_shared_seeds_and_says_what_is_missing(ran: Path) -> None:
    """Seed 1 was stopped before its fine-tuning; of focal loss nothing frozen is finished."""
    config = plan.load(ran / "config.toml")
    found = [
        one
        for one in run.read_finished(config, ran)
        if (one.cell.arm, one.cell.seed) != ("fine_tuned", 1)
        and (one.cell.arm, one.cell.loss) != ("frozen", "focal")
    ]
    made = stats.groups(config, found)
    before = made.get(("tiny", "frozen", "bce"))
    after = made.get(("tiny", "fine_tuned", "focal"))
    assert before is not None
    assert after is not None
    assert (before.seeds, after.seeds) == ((0, 1), (0,))
    pair = stats.match_seeds(before, after)
    assert pair is not None
    gain = stats.gain(*pair, "auroc")
    # The first seed against the first seed, not against the mean of both.
    row, auroc = -2, 0
    assert gain.absolute == after.values[0, row, auroc] - before.values[0, row, auroc]
    naive = after.estimate("auroc").value - before.estimate("auroc").value
    assert gain.absolute != pytest.approx(naive)
    drawn = after.samples[0, :, row, auroc] - before.samples[0, :, row, auroc]
    assert gain.absolute_interval == stats.interval(drawn)
    lines = page.write(ran / "stopped.md", config, found).read_text().splitlines()
    assert any(line.startswith("**4 of 8 cells are finished.**") for line in lines)
    (figure,) = (line for line in lines if line.startswith("| tiny | AUROC, macro"))
    assert figure.split("|")[3].strip() == "0 (missing: 1)"
    assert f"{before.values[0, row, auroc]:.3f}" in figure.split("|")[4]
    assert "| tiny | focal instead of bce, frozen | not finished | | | |" in lines
    assert "| tiny | frozen features | focal | not finished | | | | | |" in lines


def test_folders_that_cannot_be_made(ran: Path, tmp_path: Path) -> None:
    config = plan.load(ran / "config.toml")
    afile = tmp_path / "afile"
    afile.write_text("precious")
    with pytest.raises(OutputWriteError, match="afile"):
        run.run(config, afile / "ablation", settings=Settings(cache_dir=ran / "cache"))
    found = run.read_finished(config, ran)
    with pytest.raises(OutputWriteError, match="File exists"):
        page.write(afile / "page.md", config, found)
    assert afile.read_text() == "precious"


def test_nothing_finished_is_an_error(write: WriteConfig, tmp_path: Path) -> None:
    config = plan.load(write())
    with pytest.raises(DataError, match="no data-set table"):
        run.read_finished(config, tmp_path / "empty")
    run.data_of(config, tmp_path)
    with pytest.raises(DataError, match="No cell"):
        run.read_finished(config, tmp_path)
