"""The training loop, top to bottom."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hilum.packages import labels
from hilum.packages.labels import LabelSchema
from hilum.session import open_local_store
from hilum.settings import Settings
from trainer import (
    balance,
    checkpoint,
    data,
    manifest,
    metrics,
    outputs,
    runstate,
    tracking,
    weights,
)
from trainer.backbones import Classifier, Kind, build, set_prior_bias
from trainer.balance import Balance
from trainer.config import Stage, TrainConfig
from trainer.data import SplitFilms
from trainer.learner import Learner
from trainer.prediction import predict
from trainer.processes import Processes, joined
from trainer.runstate import RunState
from trainer.tracking import Trackers

BEST = "best"
LAST = "last"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress, for whoever shows it."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation_auroc: float | None  # of the last finished epoch
    judged: bool = False  # the epoch is over: its last batch again, with its own AUROC


Report = Callable[[Step], None]


def train(
    config: TrainConfig,
    out: Path,
    *,
    settings: Settings,
    report: Report | None = None,
    prepare_progress: data.Progress | None = None,
    resume: bool = False,
) -> Path:
    """Train and leave the best checkpoint, by validation macro AUROC, in ``out/best``.

    On one machine and one number of threads the same configuration gives the same weights, however
    often the run was killed and resumed in between. Under torchrun this is one of several
    processes that share the work.

    Args:
        config: what to do.
        out: folder of the run: ``best``, ``last``, ``state``, ``tensorboard``.
        settings: of hilum: where prepared images are kept, S3.
        report: called after every batch and every epoch, in the first process.
        prepare_progress: called while images are prepared.
        resume: go on with the run in ``out``; if there is none, start.

    Raises:
        RunExistsError: ``out`` holds a run and ``resume`` is false.
        ConfigurationError: no step can be taken: too few images for so many parts.
        DataError: the data set is not usable.
        WeightsMissingError, WeightsDigestError: the pretrained weights are not there.
        TrainingDivergedError: the loss is not finite; the last good checkpoint is kept.
        CheckpointError: the run in ``out`` is damaged, or of another configuration or manifest.
        CheckpointWriteError: ``out`` cannot be made or the disk is full; the last good checkpoint
            is kept.
        StorageUnavailableError: MLflow does not take a new run.
    """
    schema = labels.schema(config.model.label_schema)
    with joined(config.compute.device) as processes, _reproducible(config, processes):
        found = runstate.find(out, config, resume=resume)
        splits = data.load(
            config.manifest,
            schema,
            config.preprocess,
            cache_dir=settings.cache_dir / "prepared",
            # Of the processes of one machine the first to come prepares, the others wait.
            progress=prepare_progress if processes.first else None,
            max_bad_fraction=config.data.max_bad_fraction,
            store=open_local_store(settings),
            limits=settings.limits,
        )
        digest = manifest.digest(config.manifest)
        if found is None:
            start = weights.load(config.model, settings)
            state = RunState(
                config=config,
                manifest_digest=digest,
                start_digest=None if start is None else start.digest,
            )
        else:
            found.check_data(digest)
            start, state = None, found.state
        if state.finished:
            return out / BEST
        outputs.make_run_folder(out)

        counts = balance.count(splits["train"].targets, schema)
        torch.manual_seed(config.seed)
        model = _model(config, schema, counts, start)
        alpha = balance.alpha(config.loss, counts, schema)
        learner = Learner(
            config,
            model=model,
            split=splits["train"],
            schema=schema,
            alpha=alpha,
            processes=processes,
        )
        learner.enter(state.stage)
        if found is not None:
            learner.restore(found.tensors, state.scale)
        run = _Run(
            config,
            out,
            learner=learner,
            validation=splits["val"],
            kind=schema.kind,
            processes=processes,
            report=report,
        )
        begun = sum(epoch["batches"] for epoch in state.history) + state.batch
        with (
            closing(learner.feed),
            tracking.opened(
                config, out, step=begun, state=state.tracking, active=processes.first
            ) as trackers,
        ):
            state = state.but(tracking=trackers.state)
            while not state.finished:
                state = run.epoch(state, trackers)
        processes.wait()
    return out / BEST


class _Run:
    """A run between its epochs."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        *,
        learner: Learner,
        validation: SplitFilms,
        kind: Kind,
        processes: Processes,
        report: Report | None,
    ) -> None:
        self._config = config
        self._out = out
        self._learner = learner
        self._validation = validation
        self._kind = kind
        self._processes = processes
        self._report = report
        self._revision = code_revision()
        self._saved = -math.inf  # when the state was, on the monotonic clock

    def epoch(self, state: RunState, trackers: Trackers) -> RunState:
        """Train one epoch, judge it, keep what is good. Returns the state it leaves."""
        learner, stage = self._learner, self._config.stages[state.stage]
        every = self._config.compute.checkpoint_steps
        before = sum(epoch["batches"] for epoch in state.history)
        batches = learner.epoch(state.epoch, state.stage_epoch, state.batch)
        for batch, loss in batches:
            state = state.after_batch(loss, len(batch.rows))
            self._show(state)
            trackers.log(
                {"train/loss": loss, "train/learning_rate": learner.rate}, before + state.batch
            )
            if every and state.batch % every == 0 and state.batch < learner.feed.steps:
                self._save(state)

        # Judge the running average of the weights, which is what is kept.
        score = self._validate(stage)
        trackers.log(
            {"validation/macro_auroc": score, "train/epoch_loss": state.loss}, before + state.batch
        )
        epoch = {
            "epoch": state.epoch + 1,
            "stage": state.stage + 1,
            "size": stage.size,
            "batches": state.batch,
            "loss": state.loss,
            "validation_auroc": score,
        }
        state = state.but(history=(*state.history, epoch))
        self._show(state, judged=True)
        self._write(LAST, state, score)
        better = score is not None and (state.best is None or score > state.best)
        if better:
            state = state.but(best=score, stale=0)
        elif score is not None:  # what is not defined is no verdict
            state = state.but(stale=state.stale + 1)
        # Only the last stage runs at the size, and with the layers, that ship.
        if state.stage == len(self._config.stages) - 1 and (better or not state.kept):
            self._write(BEST, state, score)
            state = state.but(kept=True)
        state = self._onwards(state, stage)
        pause = time.monotonic() - self._saved
        if state.finished or pause >= self._config.compute.checkpoint_seconds:
            self._save(state)
        return state

    def _onwards(self, state: RunState, stage: Stage) -> RunState:
        """To the next epoch, stage, or the end."""
        patience = self._config.optimiser.patience
        state = state.but(batch=0, loss_sum=0.0, images=0, stage_epoch=state.stage_epoch + 1)
        stop = patience is not None and state.stale >= patience
        if state.stage_epoch < stage.epochs and not stop:
            return state
        if state.stage + 1 == len(self._config.stages):
            return state.but(finished=True)
        self._learner.enter(state.stage + 1)
        return state.but(stage=state.stage + 1, stage_epoch=0, best=None, stale=0)

    def _validate(self, stage: Stage) -> float | None:
        """Macro AUROC of the averaged weights; every process takes its share of the films."""
        self._learner.agree()
        split, count = self._validation, self._processes.count
        bounds = np.linspace(0, len(split), count + 1).astype(int)
        start, stop = bounds[self._processes.rank], bounds[self._processes.rank + 1]
        mine = predict(self._learner.averaged, split.images[start:stop], stage.size, self._kind)
        probability = np.concatenate(self._processes.gather(mine.numpy()))
        columns = range(probability.shape[1])
        return metrics.mean_defined(
            [metrics.auroc(split.targets[:, k], probability[:, k]) for k in columns]
        )

    def _write(self, name: str, state: RunState, score: float | None) -> None:
        if not self._processes.first:
            return
        record = checkpoint.CheckpointRecord(
            config=self._config,
            manifest_digest=state.manifest_digest,
            start_digest=state.start_digest,
            code_revision=self._revision,
            epoch=state.epoch,
            validation_auroc=score,
            history=state.history,
        )
        checkpoint.save(self._out / name, self._learner.averaged.state_dict(), record)

    def _save(self, state: RunState) -> None:
        if self._processes.first:
            state = state.but(scale=self._learner.scale)
            # Nothing goes on from the end: its weights are in `last`.
            tensors = {} if state.finished else self._learner.tensors()
            runstate.save(self._out, state, tensors)
            self._saved = time.monotonic()

    def _show(self, state: RunState, *, judged: bool = False) -> None:
        if self._report is None or not self._processes.first:
            return
        last = state.history[-1]["validation_auroc"] if state.history else None
        self._report(
            Step(
                epoch=state.epoch if judged else state.epoch + 1,
                epochs=sum(stage.epochs for stage in self._config.stages),
                batch=state.batch,
                batches=self._learner.feed.steps,
                loss=state.loss,
                validation_auroc=last,
                judged=judged,
            )
        )


def code_revision() -> str:
    """The commit this runs from, `+` if the tree differs; `unknown` outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(  # noqa: S603 -- constant arguments
            command, cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _model(
    config: TrainConfig,
    schema: LabelSchema,
    counts: Balance,
    start: weights.Pretrained | None,
) -> Classifier:
    model = build(
        config.model.backbone,
        len(schema.labels),
        state=None if start is None else start.state,
        dropout=config.model.dropout,
    )
    if config.loss.prior_bias:
        set_prior_bias(model, counts.prevalence, schema.kind)
    return model


@contextmanager
def _reproducible(config: TrainConfig, processes: Processes) -> Iterator[None]:
    """The caller's random numbers untouched; on GPUs, the algorithms that always round alike."""
    gpu = processes.device.type == "cuda"
    cudnn, exact = torch.backends.cudnn, config.compute.deterministic
    before = (cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled())
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[processes.device] if gpu else []):
        try:
            if gpu:
                cudnn.deterministic, cudnn.benchmark = exact, not exact
                torch.use_deterministic_algorithms(exact, warn_only=True)
            yield
        finally:
            if gpu:
                cudnn.deterministic, cudnn.benchmark = before[:2]
                torch.use_deterministic_algorithms(before[2], warn_only=warned)
