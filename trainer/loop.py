"""The training loop, top to bottom."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hilum import labels
from hilum.errors import TrainingDivergedError
from hilum.labels import LabelSchema
from hilum.settings import Settings
from trainer import checkpoint, data, localisation, losses, manifest, metrics, weights
from trainer.augment import augment, shrink
from trainer.backbones import Classifier, Kind, backbone, build, set_prior_bias
from trainer.config import LossConfig, Stage, TrainConfig
from trainer.data import Prepared
from trainer.localisation import CellHead


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress, for whoever shows it."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation_auroc: float | None  # of the last finished epoch


Report = Callable[[Step], None]


def train(
    config: TrainConfig,
    out: Path,
    *,
    settings: Settings,
    report: Report | None = None,
    prepare_progress: data.Progress | None = None,
) -> Path:
    """Train and leave the best checkpoint, by validation macro AUROC, in ``out/best``.

    On one machine and one number of threads the same configuration gives the same weights.

    Raises:
        DataError: the data set is not usable.
        WeightsMissingError: the pretrained weights are not there.
        TrainingDivergedError: the loss is not finite; ``out/best`` keeps the last good epoch.
    """
    torch.manual_seed(config.seed)
    schema = labels.schema(config.model.label_schema)
    cache = settings.cache_dir / "prepared"
    splits = data.load(
        config.manifest, schema, config.preprocess, cache_dir=cache, progress=prepare_progress
    )
    start = weights.load(config.model.weights, config.model.backbone, settings)
    model = build(config.model.backbone, len(schema.labels), state=start)
    prevalence = torch.from_numpy(np.nanmean(splits["train"].targets, axis=0))
    set_prior_bias(model, prevalence, schema.kind)
    learner = _Learner(config, model, splits["train"], schema)

    history: list[dict[str, Any]] = []
    best, epochs = -math.inf, sum(stage.epochs for stage in config.stages)
    for stage in config.stages:
        learner.enter(stage)
        stale = 0
        for _ in range(stage.epochs):
            # One epoch.
            for batch, batches, loss in learner.epoch():
                if report is not None:
                    last = history[-1]["validation_auroc"] if history else None
                    step = Step(
                        epoch=len(history) + 1,
                        epochs=epochs,
                        batch=batch,
                        batches=batches,
                        loss=loss,
                        validation_auroc=last,
                    )
                    report(step)
            # Judge the running average of the weights, which is what is kept.
            score = _validate(learner, splits["val"], stage.size, schema.kind)
            epoch = {"epoch": len(history) + 1, "size": stage.size, "loss": loss}
            history.append({**epoch, "validation_auroc": score})
            record = checkpoint.CheckpointRecord(
                config=config,
                manifest_digest=manifest.digest(config.manifest),
                code_revision=code_revision(),
                epoch=len(history),
                validation_auroc=score,
                history=tuple(history),
            )
            checkpoint.save(out / "last", learner.averaged, record)
            # Only the last stage runs at the size that ships.
            value = -math.inf if score is None else score
            if stage is config.stages[-1] and (value > best or best == -math.inf):
                best, stale = value, 0
                checkpoint.save(out / "best", learner.averaged, record)
            else:
                stale += 1
            if config.optimiser.patience is not None and stale >= config.optimiser.patience:
                break
    return out / "best"


class _Learner:
    """The model, its running average, and what changes them."""

    def __init__(
        self, config: TrainConfig, model: Classifier, split: Prepared, schema: LabelSchema
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.averaged = checkpoint.clone(model)
        self._config = config
        self._split = split
        self._kind = schema.kind
        self._rng = np.random.default_rng(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._cells: CellHead | None = None
        if config.loss.box_weight:
            channels = backbone(config.model.backbone).channels
            self._cells = CellHead(channels, len(schema.labels))
            self._masks = localisation.masks(split, schema)

    def enter(self, stage: Stage) -> None:
        """Start ``stage``: its size, its trained layers, a new optimiser and schedule."""
        self._stage = stage
        config = self._config.optimiser
        # What no pretrained weights know: the layers that give logits. AlexNet's hidden layers are
        # features, as the rest of it is.
        new = [self.model.head.last]
        if self.model.auxiliary is not None:
            new.append(self.model.auxiliary.get_submodule("fc"))  # type: ignore[arg-type]
        heads = [parameter for layer in new for parameter in layer.parameters()]
        known = {id(parameter) for parameter in heads}
        body = [p for p in self.model.parameters() if id(p) not in known]
        if self._cells is not None:
            heads += self._cells.parameters()
        groups: list[dict[str, Any]] = [{"params": heads, "lr": stage.learning_rate}]
        if stage.backbone_scale:
            rate = stage.learning_rate * stage.backbone_scale
            groups.append({"params": body, "lr": rate})
        for parameter in body:
            parameter.requires_grad_(stage.backbone_scale > 0)
        self._parameters = [p for group in groups for p in group["params"]]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        steps = stage.epochs * math.ceil(len(self._split) / config.batch_size)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, _cosine(steps, max(1, round(config.warmup * steps)))
        )

    def epoch(self) -> Iterator[tuple[int, int, float]]:
        """Every image once. Yields batch, batches and the mean loss so far.

        Raises:
            TrainingDivergedError: the loss is not finite; nothing of that batch is applied.
        """
        self.model.train()
        if self._stage.backbone_scale == 0:
            self.model.features.eval()  # frozen features keep their batch statistics too
        config = self._config.optimiser
        order = list(data.batches(len(self._split), config.batch_size, self._rng))
        total, seen = 0.0, 0
        for number, rows in enumerate(order, 1):
            loss = self._loss(np.sort(rows))
            if not math.isfinite(loss.item()):
                raise TrainingDivergedError(f"The loss is {loss.item()} in batch {number}.")
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
            self._optimiser.step()
            self._schedule.step()
            checkpoint.average(self.averaged, self.model.state_dict(), config.ema_decay)
            total, seen = total + loss.item() * len(rows), seen + len(rows)
            yield number, len(order), total / seen

    def _loss(self, rows: npt.NDArray[np.intp]) -> Tensor:
        config = self._config.loss
        images = torch.from_numpy(self._split.images[rows])
        targets = torch.from_numpy(self._split.targets[rows])
        boxes = None if self._cells is None else localisation.as_tensor(self._masks[rows])
        images, boxes = augment(images, boxes, self._config.augmentation, self._generator)
        shrunk = shrink(images, self._stage.size)
        logits, activation, auxiliary = self.model.forward_training(shrunk)
        loss = _classification(logits, targets, config, self._kind)
        if auxiliary is not None:
            extra = _classification(auxiliary, targets, config, self._kind)
            loss = loss + config.auxiliary_weight * extra
        if self._cells is not None and boxes is not None:
            loss = loss + config.box_weight * self._cells.loss(activation, boxes)
        return loss


@torch.no_grad()
def predict(model: Classifier, images: np.ndarray[Any, Any], size: int, kind: Kind) -> Tensor:
    """Probabilities ``[N, K]`` of ``images`` uint8 ``[N, 1, S, S]`` at side ``size``."""
    model.eval()
    parts = []
    for start in range(0, len(images), 64):
        batch = shrink(torch.from_numpy(np.array(images[start : start + 64])), size)
        logits = model(batch)
        parts.append(logits.sigmoid() if kind == "multi_label" else logits.softmax(dim=1))
    return torch.cat(parts)


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


def _cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """The learning rate's factor at each step: linear warm-up, then a cosine to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def _classification(logits: Tensor, targets: Tensor, config: LossConfig, kind: Kind) -> Tensor:
    function = losses.focal_sigmoid if kind == "multi_label" else losses.focal_softmax
    if config.kind == "bce":
        return function(logits, targets, gamma=0.0)
    alpha = None if config.alpha is None else torch.full((targets.shape[1],), config.alpha)
    return function(logits, targets, gamma=config.gamma, alpha=alpha)


def _validate(learner: _Learner, split: Prepared, size: int, kind: Kind) -> float | None:
    """Macro AUROC of the averaged weights on ``split``."""
    own = checkpoint.clone(learner.model)
    learner.model.load_state_dict(learner.averaged)
    probability = predict(learner.model, split.images, size, kind).numpy()
    learner.model.load_state_dict(own)
    columns = range(probability.shape[1])
    return metrics.mean_defined(
        [metrics.auroc(split.targets[:, k], probability[:, k]) for k in columns]
    )
