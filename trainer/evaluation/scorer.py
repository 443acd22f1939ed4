"""Runs a checkpoint or a package on the prepared films of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from hilum.engines import Engine, EngineOutput
from hilum.engines.loading import open_engine
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.findings import calibrate
from hilum.packages.labels import HeadKind, LabelSchema
from hilum.packages.manifest import MANIFEST, Calibration, OperatingPoint
from hilum.session import open_package
from hilum.settings import Settings
from trainer import checkpoint, processes
from trainer.arrays import Float32Array, UInt8Array
from trainer.backbones import Classifier
from trainer.data import SplitFilms
from trainer.errors import CheckpointError
from trainer.evaluation.scored import Scored
from trainer.gradcam import WithMaps

BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Model:
    """What an evaluation needs to know about a model."""

    engine: Engine
    schema: LabelSchema
    preprocess: PreprocessSpec
    backbone: str
    name: str  # for the title of the report
    identity: str  # digest of the package, or epoch and code revision of the checkpoint
    notice: str | None
    manifest_path: Path | None  # the data-set table of its training, if known
    calibration: Calibration | None  # as shipped; None: still to be fitted
    points: Mapping[str, OperatingPoint] | None  # as shipped
    max_bad_fraction: float | None = None  # allowed in its training; None: unknown


class TorchEngine:
    """The model of a checkpoint as a :class:`hilum.engines.Engine`, without a graph."""

    def __init__(
        self, model: Classifier, kind: HeadKind, device: torch.device | None = None
    ) -> None:
        """``device`` computes; ``None``: the CPU."""
        self._device = device or torch.device("cpu")
        self._model = WithMaps(model, kind).eval().to(self._device)

    @property
    def name(self) -> str:
        """``torch-cpu`` or ``torch-cuda``, as in results."""
        return f"torch-{self._device.type}"

    @torch.no_grad()
    def run(self, images: UInt8Array) -> EngineOutput:
        """Probabilities and maps of uint8 ``[N, 1, S, S]``."""
        probability, cam = self._model(torch.from_numpy(images).to(self._device))
        return EngineOutput(probability=probability.cpu().numpy(), cam=cam.cpu().numpy())


def open_model(location: str, settings: Settings) -> Model:
    """Load the checkpoint folder, package folder, archive or s3:// package at ``location``.

    Raises:
        CheckpointError: there is neither a checkpoint nor a package, or it is damaged.
        PackageError: the package cannot be trusted.
    """
    path = Path(location)
    if (path / checkpoint.RECORD).is_file():
        return _from_checkpoint(path)
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path} holds neither {checkpoint.RECORD} nor {MANIFEST}.",
            next_step="Name the folder of a checkpoint (for example RUN/best) or of a package.",
        )
    return _from_package(location, settings)


def _from_checkpoint(folder: Path) -> Model:
    found = checkpoint.load(folder)
    config = found.record.config
    device = processes.scoring_device(config.compute.device)
    return Model(
        engine=TorchEngine(found.model, found.schema.kind, device),
        schema=found.schema,
        preprocess=config.preprocess,
        backbone=config.model.backbone,
        name=f"{config.model.backbone}, checkpoint",
        identity=f"epoch {found.record.epoch}, code {found.record.code_revision}",
        notice=None,
        manifest_path=config.manifest,
        calibration=None,
        points=None,
        max_bad_fraction=config.data.max_bad_fraction,
    )


def _from_package(location: str, settings: Settings) -> Model:
    package = open_package(settings, location)
    manifest = package.manifest
    return Model(
        engine=open_engine(package, settings),
        schema=manifest.label_set,
        preprocess=manifest.preprocess,
        backbone=manifest.backbone,
        name=f"{manifest.name} {manifest.version}",
        identity=package.digest,
        notice=manifest.notice,
        manifest_path=None,
        calibration=manifest.calibration,
        points=manifest.operating_points,
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """The outputs of a model on some films."""

    raw: Float32Array  # [N, K], before calibration
    cam: Float32Array  # [N, K, h, w]

    def first(self, count: int) -> Run:
        """The outputs on the first ``count`` films."""
        return Run(raw=self.raw[:count], cam=self.cam[:count])


def run(
    engine: Engine,
    images: UInt8Array,
    mask: Callable[[UInt8Array, int], UInt8Array] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run ``engine`` on films in batches of :data:`BATCH`.

    Args:
        images: model inputs ``[N, 1, S, S]``, perhaps memory-mapped.
        mask: changes the input ``[1, S, S]`` of the film with that index; ``None``: no change.
        progress: told the number of finished films and of all films.
    """
    raw, cam = [], []
    for start in range(0, len(images), BATCH):
        batch = np.array(images[start : start + BATCH])
        if mask is not None:
            batch = np.stack([mask(image, start + n) for n, image in enumerate(batch)])
        output = engine.run(batch)
        raw.append(output.probability)
        cam.append(output.cam)
        if progress is not None:
            progress(min(start + BATCH, len(images)), len(images))
    return Run(raw=np.concatenate(raw), cam=np.concatenate(cam))


def scored(
    films: SplitFilms,
    found: Run,
    schema: LabelSchema,
    calibration: Calibration,
    points: Mapping[str, OperatingPoint],
    *,
    chosen: bool,
) -> Scored:
    """``films`` with the calibrated outputs ``found``; ``chosen``: see :class:`Scored`."""
    return Scored(
        schema=schema,
        records=films.records,
        sizes=films.sizes,
        targets=films.targets,
        probability=calibrate(found.raw, calibration, schema.kind),
        cam=found.cam,
        input_size=int(films.images.shape[-1]),
        points=points,
        chosen=chosen,
    )
