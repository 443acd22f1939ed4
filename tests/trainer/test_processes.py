"""One run shared: over two real processes, or over parts of a batch, it is the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hilum.errors import ConfigurationError
from hilum.settings import Settings
from trainer import checkpoint, config, loop
from trainer.checkpoint import Checkpoint
from trainer.processes import joined

ConfigFile = Callable[..., Path]

# Batch normalisation counts within a part, so it is frozen; unknown labels and boxes fall
# unevenly on the parts, which a mean of means would get wrong.
_STAGES = (
    '[[stages]]\nepochs = 2\nsize = 48\nlearning_rate = 1e-3\nbatch_norm = "frozen"\n'
    "backbone_scale = 0.3\n"
)


def _unevenly_unknown(dataset: Path) -> None:
    lines = dataset.read_text().splitlines()
    for n in range(1, 30, 2):
        cells = lines[n].split(",", 9)
        cells[7] = ""
        lines[n] = ",".join(cells)
    dataset.write_text("\n".join(lines) + "\n")


def _file(config_file: ConfigFile, accumulate: int) -> Path:
    return config_file(
        preprocess="[preprocess]\nsize = 48\n",
        stages=_STAGES,
        optimiser=f"[optimiser]\nbatch_size = 12\nema_decay = 0.5\naccumulate = {accumulate}\n",
    )


def _assert_the_same(one: Checkpoint, other: Checkpoint) -> None:
    for mine, yours in zip(one.record.history, other.record.history, strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-4)
        assert mine["validation_auroc"] == pytest.approx(yours["validation_auroc"], abs=0.02)
    states = one.model.state_dict(), other.model.state_dict()
    for name, value in states[0].items():
        if value.is_floating_point():
            # Six steps of at most 1e-3 each: what differs is rounding, not a step.
            torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=2e-4)


def test_two_processes_and_three_parts_train_what_one_does(
    config_file: ConfigFile, settings: Settings, tmp_path: Path, dataset: Path
) -> None:
    _unevenly_unknown(dataset)
    whole = _file(config_file, accumulate=1)
    alone = checkpoint.load(loop.train(config.load(whole), tmp_path / "one", settings=settings))

    out = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--no-python", sys.executable, "-m", "hilum"]
    command += ["train", str(whole), "--to", str(out)]
    environment = os.environ | {"HILUM_CACHE_DIR": str(tmp_path / "fresh"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / "best")], "one of them speaks"
    _assert_the_same(checkpoint.load(out / "best"), alone)

    parts = _file(config_file, accumulate=3)
    cut = loop.train(config.load(parts), tmp_path / "three", settings=settings)
    _assert_the_same(checkpoint.load(cut), alone)


def test_a_gpu_that_is_not_there_is_said_to_be_missing() -> None:
    if torch.cuda.is_available():
        with joined("cuda") as processes:
            assert processes.device.type == "cuda"
        return
    with pytest.raises(ConfigurationError, match="this machine has 0"), joined("cuda"):
        pass
    with joined("auto") as processes:
        assert (processes.device.type, processes.count, processes.first) == ("cpu", 1, True)
