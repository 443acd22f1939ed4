"""One run shared: over two real processes, or over parts of a batch, it is the same run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_backbone

from hilum.errors import ConfigurationError
from hilum.settings import Settings
from trainer import checkpoint, config, loop
from trainer.checkpoint import Checkpoint
from trainer.processes import join, scoring_device

ConfigFile = Callable[..., Path]

# Batch normalisation counts within a part, so it is frozen; unknown labels and boxes fall
# unevenly on the parts, which a mean of means would get wrong.
_STAGES = (
    "[[stages]]\nepochs = 1\nsize = 32\nlearning_rate = 1e-3\nbackbone_scale = 0\n"
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


def _file(config_file: ConfigFile, accumulate: int, stages: str = _STAGES) -> Path:
    return config_file(
        preprocess="[preprocess]\nsize = 48\n",
        stages=stages,
        optimiser=f"[optimiser]\nbatch_size = 12\nema_decay = 0.5\naccumulate = {accumulate}\n",
    )


def _in_two(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--no-python", sys.executable, *map(str, arguments)]
    environment = os.environ | {
        "HILUM_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": tiny_backbone.PYTHONPATH,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def _assert_the_same(one: Checkpoint, other: Checkpoint) -> None:
    for mine, yours in zip(one.record.history, other.record.history, strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-4)
        assert mine["validation_auroc"] == pytest.approx(yours["validation_auroc"], abs=0.02)
    states = one.model.state_dict(), other.model.state_dict()
    for name, value in states[0].items():
        if value.is_floating_point():
            # Nine steps of at most 1e-3 each: what differs is rounding, not a step.
            torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=2e-4)


# Tells with which statistics each process validates.
_TELLING = """
import hashlib, os, sys
from hilum.cli import main
from support import tiny_backbone
from trainer.backbones import Classifier

predict = Classifier.predict

def telling(model, *rest):
    state = model.state_dict()
    names = [name for name in state if name.endswith(("running_mean", "running_var"))]
    data = b"".join(state[name].numpy().tobytes() for name in names)
    with open(f"{sys.argv[-1]}.{os.environ['RANK']}", "w") as file:
        file.write(hashlib.sha256(data).hexdigest())
    return predict(model, *rest)

Classifier.predict = telling
with tiny_backbone.registered():
    main()
"""


def test_two_processes_and_three_parts_train_what_one_does(
    config_file: ConfigFile, settings: Settings, tmp_path: Path, dataset: Path
) -> None:
    _unevenly_unknown(dataset)
    whole = _file(config_file, accumulate=1)
    alone = checkpoint.load(loop.train(config.load(whole), tmp_path / "one", settings=settings))

    out = tmp_path / "two"
    script = tmp_path / "telling.py"
    script.write_text(_TELLING)
    done = _in_two(script, "train", whole, "--to", out, cache=tmp_path / "fresh")
    assert done.stdout.split() == [str(out / "best")], "one of them speaks"
    _assert_the_same(checkpoint.load(out / "best"), alone)

    # Each process has seen its own share; shares scored with different statistics are no model's.
    kept = checkpoint.load(out / "last").model.state_dict()
    names = [name for name in kept if name.endswith(("running_mean", "running_var"))]
    digest = hashlib.sha256(b"".join(kept[name].numpy().tobytes() for name in names)).hexdigest()
    assert [(tmp_path / f"two.{rank}").read_text() for rank in range(2)] == [digest] * 2

    parts = _file(config_file, accumulate=3)
    cut = loop.train(config.load(parts), tmp_path / "three", settings=settings)
    _assert_the_same(checkpoint.load(cut), alone)


def test_a_gpu_that_is_not_there_is_said_to_be_missing() -> None:
    if torch.cuda.is_available():
        with join("cuda") as processes:
            assert processes.device.type == "cuda"
        return
    with pytest.raises(ConfigurationError, match="this machine has 0"), join("cuda"):
        pass
    # What was trained on one can be measured without.
    assert scoring_device("cuda") == scoring_device("auto") == torch.device("cpu")
    with join("auto") as processes:
        assert (processes.device.type, processes.count, processes.first) == ("cpu", 1, True)
