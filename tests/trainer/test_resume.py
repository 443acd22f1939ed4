"""A run that is killed goes on as if nothing had happened; what was good before stays."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support import tiny_backbone

from hilum.settings import Settings
from trainer import checkpoint, config, loop, tracking
from trainer.errors import CheckpointError, CheckpointWriteError, RunExistsError

ConfigFile = Callable[..., Path]

# Head alone, then everything; dropout, so that random numbers matter.
_MODEL = (
    '[model]\nbackbone = "tiny"\nweights = "random"\nlabel_schema = "synthetic-v1"\ndropout = 0.3\n'
)
_STAGES = (
    "[[stages]]\nepochs = 1\nsize = 32\nlearning_rate = 2e-3\nbackbone_scale = 0\n"
    "[[stages]]\nepochs = 2\nsize = 48\nlearning_rate = 1e-3\nlayer_decay = 0.8\n"
)
_SHORT = "[[stages]]\nepochs = 2\nsize = 32\nlearning_rate = 1e-3\n"
_SMALL = "[preprocess]\nsize = 32\n"


@pytest.fixture
def file(config_file: ConfigFile) -> Path:
    """Three steps an epoch, saved after two of them and after the last."""
    return config_file(
        model=_MODEL,
        stages=_STAGES,
        preprocess="[preprocess]\nsize = 48\n",
        compute="[compute]\ncheckpoint_steps = 2\ncheckpoint_seconds = 0\n",
    )


def _files(folder: Path) -> dict[str, bytes]:
    """Weights by name (which holds their digest) and content."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert len(found) == 1
    return found


def test_after_sigkill_the_weights_are_those_of_a_run_left_alone(
    file: Path, settings: Settings, tmp_path: Path
) -> None:
    alone = loop.train(config.load(file), tmp_path / "alone", settings=settings)

    out = tmp_path / "killed"
    program = [sys.executable, "-m", "support.tiny_backbone"]
    command = [*program, "train", str(file), "--to", str(out), "--resume"]
    environment = os.environ | {
        "HILUM_CACHE_DIR": str(settings.cache_dir),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": tiny_backbone.PYTHONPATH,
    }
    record = out / "state" / "state.json"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as child:
        # In the middle of the first epoch that trains everything.
        while child.poll() is None:
            state = json.loads(record.read_text()) if record.is_file() else {}
            if (state.get("stage"), state.get("batch")) == (1, 2):
                child.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        assert child.returncode == -signal.SIGKILL, child.communicate()
    state = json.loads(record.read_text())
    assert not state["finished"]
    assert state["stage"] == 1, "not so early that nothing was left to resume"

    seen: list[loop.Step] = []
    best = loop.train(config.load(file), out, settings=settings, resume=True, report=seen.append)
    assert len([step for step in seen if not step.ends_epoch]) < 9, "went on, did not begin again"
    for name in ("best", "last"):
        assert _files(out / name) == _files(alone.parent / name)
    one, other = checkpoint.load(best).record, checkpoint.load(alone).record
    assert one.history == other.history

    # Finished: nothing is done again.
    assert loop.train(config.load(file), out, settings=settings, resume=True) == best


def test_a_state_of_something_else_is_refused(
    config_file: ConfigFile, settings: Settings, tmp_path: Path, dataset: Path
) -> None:
    out = tmp_path / "out"
    stages = _SHORT.replace("epochs = 2", "epochs = 1")
    parsed = config.load(config_file(stages=stages, preprocess=_SMALL))
    loop.train(parsed, out, settings=settings, resume=True)  # nothing there: it starts
    with pytest.raises(RunExistsError, match="already holds a run"):
        loop.train(parsed, out, settings=settings)

    other = config.load(
        config_file(
            stages=stages,
            preprocess=_SMALL,
            loss="[loss]\ngamma = 1.5\nbox_weight = 0.5\n",
            optimiser="[optimiser]\nbatch_size = 6\nema_decay = 0.5\n",
        )
    )
    with pytest.raises(CheckpointError, match=r"loss\.gamma, optimiser\.batch_size"):
        loop.train(other, out, settings=settings, resume=True)
    # Where curves go has no say in the weights.
    curves = parsed.model_copy(update={"tracking": config.TrackingConfig(tensorboard=False)})
    assert loop.train(curves, out, settings=settings, resume=True) == out / "best"

    lines = dataset.read_text().splitlines(keepends=True)
    dataset.write_text("".join([*lines[:1], *lines[2:]]))
    with pytest.raises(CheckpointError, match="another data-set table"):
        loop.train(parsed, out, settings=settings, resume=True)
    (state,) = (out / "state").glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        loop.train(parsed, out, settings=settings, resume=True)


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """The system refuses larger files, in the middle of writing them, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = "[compute]\ncheckpoint_seconds = 0\n"
    curves = "[tracking]\ntensorboard = true\n"
    parsed = config.load(
        config_file(stages=_SHORT, preprocess=_SMALL, compute=often, tracking=curves)
    )
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: loop.Step) -> None:
        if step.epoch == 2:
            # Neither the next checkpoint nor another figure for TensorBoard.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    try:
        with pytest.raises(CheckpointWriteError, match="cannot be written") as caught:
            loop.train(parsed, out, settings=settings, report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    warned = [record.getMessage() for record in caplog.records if "TensorBoard" in record.message]
    assert len(warned) == 1, "once, not at every batch"
    assert "File too large" in warned[0]
    assert "--resume" in caught.value.body()["next_step"]
    assert checkpoint.load(out / "best").record.epoch == 1
    assert not list(out.rglob(".*")), "nothing half-written is left"
    # With room again it ends.
    loop.train(parsed, out, settings=settings, resume=True)
    assert checkpoint.load(out / "last").record.epoch == 2


@pytest.mark.parametrize("curves", ["true", "false"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_trained(
    config_file: ConfigFile, settings: Settings, tmp_path: Path, curves: str
) -> None:
    tracking = f"[tracking]\ntensorboard = {curves}\n"
    parsed = config.load(config_file(stages=_SHORT, preprocess=_SMALL, tracking=tracking))
    afile = tmp_path / "afile"
    afile.write_text("precious")
    seen: list[loop.Step] = []
    for out in (afile, afile / "run"):
        with pytest.raises(CheckpointWriteError, match="afile"):
            loop.train(parsed, out, settings=settings, report=seen.append)
    assert seen == []
    assert afile.read_text() == "precious"


def test_curves_that_cannot_be_written_do_not_end_a_run(
    config_file: ConfigFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parsed = config.load(config_file(tracking="[tracking]\ntensorboard = true\n"))
    with tracking.open_trackers(parsed, tmp_path, step=0, state={}) as trackers, _room_for(150):
        for step in range(1, 9):
            trackers.log({"train/loss": 0.5}, step)
    assert len(caplog.records) == 1
    assert "the run goes on without it" in caplog.text
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / tracking.TENSORBOARD).write_text("not a folder")
    with (
        pytest.raises(CheckpointWriteError, match="tensorboard cannot be written"),
        tracking.open_trackers(parsed, tmp_path / "run", step=0, state={}),
    ):
        pass


def test_a_snapshot_is_of_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    old, new = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    checkpoint.write_snapshot(path, old, {"n": 1})
    with _room_for(40), pytest.raises(CheckpointWriteError):
        checkpoint.write_snapshot(path, new, {"n": 2})
    # Killed between the two files: the tensors are there, the JSON does not speak of them yet.
    checkpoint.write_snapshot(tmp_path / "elsewhere" / "x.json", new, {"n": 2})
    (file,) = (tmp_path / "elsewhere").glob("*.safetensors")
    (tmp_path / file.name).write_bytes(file.read_bytes())
    values, tensors = checkpoint.read_snapshot(path, dict)
    assert (values, tensors["w"].tolist()) == ({"n": 1}, [0, 0, 0])
    checkpoint.write_snapshot(path, new, {"n": 2})
    values, tensors = checkpoint.read_snapshot(path, dict)
    assert (values, tensors["w"].tolist()) == ({"n": 2}, [1, 1, 1])
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    text = path.read_text().replace(file.name, f"../{tmp_path.name}/{file.name}")
    path.write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read_snapshot(path, dict)
