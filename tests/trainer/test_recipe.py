"""What the recipe's switches do to a run."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hilum.errors import MissingExtraError, StorageUnavailableError
from hilum.settings import Settings
from trainer import checkpoint, config, loop, tracking
from trainer.backbones import build
from trainer.errors import TrainingDivergedError
from trainer.objective import Objective

ConfigFile = Callable[..., Path]

_SMALL = "[preprocess]\nsize = 32\n"


def _stage(**keys: object) -> str:
    lines = {"epochs": 1, "size": 32, "learning_rate": 1e-3} | keys
    return "[[stages]]\n" + "".join(
        f"{key} = {value!r}\n".replace("'", '"') for key, value in lines.items()
    )


def test_precision_changes_the_rounding_not_the_run(
    config_file: ConfigFile, settings: Settings, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("float32", "bf16", "fp16"):
        file = config_file(
            preprocess=_SMALL,
            # The features forward only: fp16 has no quick backward pass on CPUs.
            stages=_stage(backbone_scale=0),
            compute=f'[compute]\nprecision = "{precision}"\n',
        )
        best = loop.train(config.load(file), tmp_path / precision, settings=settings)
        losses[precision] = checkpoint.load(best).record.history[-1]["loss"]
    assert len(set(losses.values())) == 3, "each was computed in its own way"
    for precision in ("bf16", "fp16"):
        assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)


def test_frozen_features_stay_as_they_are(
    config_file: ConfigFile, settings: Settings, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    start = build("tiny", 6).features.state_dict()
    weights = tmp_path / "start.pth"
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    state = {
        f"{names[int(name.split('.')[0])]}.{name.partition('.')[2]}": value
        for name, value in start.items()
    }
    torch.save(state, weights)
    model = f'[model]\nbackbone = "tiny"\nweights = "{weights}"\n'
    file = config_file(
        model=model + 'label_schema = "synthetic-v1"\n',
        preprocess=_SMALL,
        loss="[loss]\n",
        stages=_stage(backbone_scale=0),
    )
    best = loop.train(config.load(file), tmp_path / "out", settings=settings)
    found = checkpoint.load(best)
    assert found.record.start_digest is not None
    for name, value in found.model.features.state_dict().items():
        # A running average of what never changes rounds in its last bit.
        torch.testing.assert_close(value, start[name], rtol=1e-6, atol=1e-7)
    bias = found.model.head.linear.bias.detach()
    assert bias.std() > 0


def test_a_stage_ends_when_nothing_gets_better(
    config_file: ConfigFile, settings: Settings, tmp_path: Path
) -> None:
    file = config_file(
        preprocess=_SMALL,
        optimiser="[optimiser]\nbatch_size = 12\npatience = 1\n",
        # So slow that the second epoch ranks as the first.
        stages=2 * _stage(epochs=4, learning_rate=1e-12, batch_norm="frozen", backbone_scale=0),
    )
    loop.train(config.load(file), tmp_path / "out", settings=settings)
    record = checkpoint.load(tmp_path / "out" / "last").record
    assert [epoch["stage"] for epoch in record.history] == [1, 1, 2, 2]
    assert checkpoint.load(tmp_path / "out" / "best").record.epoch == 3


def test_a_gradient_that_is_not_finite_stops_the_run(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = Objective.forward

    def vertical(self: Objective, *parts: torch.Tensor) -> torch.Tensor:
        loss = forward(self, *parts)
        bias = self.model.head.linear.bias
        return loss + (bias - bias.detach()).abs().sqrt().sum()

    monkeypatch.setattr(Objective, "forward", vertical)
    file = config_file(preprocess=_SMALL, stages=_stage())
    with pytest.raises(TrainingDivergedError, match="gradient's norm"):
        loop.train(config.load(file), tmp_path / "out", settings=settings)
    assert not (tmp_path / "out" / "last").exists()


def test_curves_are_in_tensorboard_once_even_after_a_resume(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second and process are read in the order of their numbers as text: 9 after 10.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))

    file = config_file(
        preprocess=_SMALL,
        stages=_stage(epochs=2),
        tracking="[tracking]\ntensorboard = true\n",
        compute="[compute]\ncheckpoint_seconds = 0\n",
    )
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(step: loop.Step) -> None:
        if step.epoch == 2 and step.batch == 2:
            raise Stop

    with pytest.raises(Stop):
        loop.train(config.load(file), out, settings=settings, report=stop)
    best = loop.train(config.load(file), out, settings=settings, resume=True)
    read = EventAccumulator(str(out / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    history = checkpoint.load(best.parent / "last").record.history
    judged = read.Scalars("validation/macro_auroc")
    assert [event.step for event in judged] == [3, 6]
    assert [event.value for event in judged] == pytest.approx(
        [epoch["validation_auroc"] for epoch in history]
    )
    assert all(math.isfinite(event.value) for event in read.Scalars("train/learning_rate"))


def test_mlflow_that_is_not_installed_is_said_to_be_missing(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    file = config_file(
        preprocess=_SMALL, stages=_stage(), tracking='[tracking]\nmlflow = "file:/nowhere"\n'
    )
    with pytest.raises(MissingExtraError, match="install the package mlflow"):
        loop.train(config.load(file), tmp_path / "out", settings=settings)


class _Server:
    """MLflow as the trainer uses it; ``down``: every call fails."""

    def __init__(self) -> None:
        self.down = False
        self.calls = 0
        self.runs: dict[str, list[tuple[str, float, int]]] = {}
        self.status: dict[str, str] = {}
        self.parameters: dict[str, object] = {}

    def answer(self) -> None:
        self.calls += 1
        if self.down:
            raise MlflowException("no answer")


class MlflowException(Exception):
    """As MLflow names it."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> _Server:
    """A module ``mlflow`` with the calls that are used."""
    found = _Server()

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            assert tracking_uri == "http://curves"

        def get_experiment_by_name(self, _name: str) -> None:
            found.answer()

        def create_experiment(self, name: str) -> str:
            return f"experiment of {name}"

        def create_run(self, place: str) -> SimpleNamespace:
            assert place == "experiment of hilum"
            run_id = f"run{len(found.runs)}"
            found.runs[run_id] = []
            found.status[run_id] = "RUNNING"
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def log_param(self, _run_id: str, name: str, value: object) -> None:
            found.parameters[name] = value

        def update_run(self, run_id: str, status: str) -> None:
            found.answer()
            found.status[run_id] = status

        def log_metric(self, run_id: str, name: str, value: float, step: int) -> None:
            found.answer()
            found.runs[run_id].append((name, value, step))

        def set_terminated(self, run_id: str, status: str) -> None:
            found.answer()
            found.status[run_id] = status

    for name, content in (
        ("mlflow", {}),
        ("mlflow.exceptions", {"MlflowException": MlflowException}),
        ("mlflow.tracking", {"MlflowClient": Client}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def _with_mlflow(config_file: ConfigFile) -> config.TrainConfig:
    return config.load(
        config_file(
            preprocess=_SMALL,
            stages=_stage(epochs=2, backbone_scale=0),
            tracking='[tracking]\ntensorboard = false\nmlflow = "http://curves"\n',
            compute="[compute]\ncheckpoint_seconds = 0\n",
        )
    )


def test_mlflow_gets_one_run_even_after_a_resume(
    config_file: ConfigFile, settings: Settings, tmp_path: Path, server: _Server
) -> None:
    parsed, out = _with_mlflow(config_file), tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(step: loop.Step) -> None:
        if step.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        loop.train(parsed, out, settings=settings, report=stop)
    assert server.status == {"run0": "FAILED"}
    loop.train(parsed, out, settings=settings, resume=True)
    assert server.status == {"run0": "FINISHED"}
    assert server.parameters["optimiser.batch_size"] == 12
    assert not {"manifest", "tracking"} & set(server.parameters)
    losses = [step for name, _, step in server.runs["run0"] if name == "train/loss"]
    assert losses == [1, 2, 3, 4, 5, 6]


def test_an_mlflow_server_that_fails_does_not_end_the_run(
    config_file: ConfigFile,
    settings: Settings,
    tmp_path: Path,
    server: _Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parsed, out = _with_mlflow(config_file), tmp_path / "out"

    def fail(step: loop.Step) -> None:
        if step.epoch == 2 and not server.down:
            server.down, server.calls = True, 0

    best = loop.train(parsed, out, settings=settings, report=fail)
    assert checkpoint.load(best.parent / "last").record.epoch == 2
    warned = [r.getMessage() for r in caplog.records if "MLflow" in r.getMessage()]
    assert warned == ["MLflow takes no more figures (MlflowException); the run goes on without it"]
    assert server.calls == 2, "the figure that failed and the end; not every batch"
    # At the start nothing is lost yet: it is an error. A run that goes on does so without it.
    with pytest.raises(StorageUnavailableError, match="MLflow does not accept this run"):
        loop.train(parsed, tmp_path / "new", settings=settings)
    caplog.clear()
    with tracking.open_trackers(parsed, out, step=3, state={"mlflow_run": "run0"}) as trackers:
        trackers.log({"train/loss": 0.5}, 4)
    assert trackers.state == {"mlflow_run": "run0"}
    assert len(caplog.records) == 1
    # What ended the run is what is told, not that MLflow could not be told.
    with (
        pytest.raises(TrainingDivergedError),
        tracking.open_trackers(parsed, out, step=3, state={"mlflow_run": "run0"}),
    ):
        raise TrainingDivergedError("The loss is nan.")
