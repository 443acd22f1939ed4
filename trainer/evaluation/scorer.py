"""A checkpoint or a package, as something that scores prepared films."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from hilum.engines import Engine, EngineOutput
from hilum.engines.loading import open_engine
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Placement
from hilum.packages.labels import HeadKind, LabelSchema
from hilum.packages.manifest import MANIFEST, Calibration, OperatingPoint
from hilum.session import open_package
from hilum.settings import Settings
from trainer import checkpoint, processes
from trainer.backbones import Classifier
from trainer.errors import CheckpointError
from trainer.gradcam import WithMaps

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
Mask = Callable[[UInt8Array, Placement], UInt8Array]
BATCH: Final = 16


class Films(Protocol):
    """Prepared films, see :class:`trainer.data.SplitFilms`."""

    @property
    def images(self) -> UInt8Array:
        """``[N, 1, S, S]``, perhaps memory-mapped."""
        ...

    def __len__(self) -> int: ...

    def placement(self, index: int) -> Placement:
        """Where film ``index`` lies in its input."""
        ...


@dataclass(frozen=True, kw_only=True)
class Model:
    """What evaluation has to know about a model."""

    engine: Engine
    schema: LabelSchema
    preprocess: PreprocessSpec
    backbone: str
    name: str  # for the report's title
    identity: str  # the package's digest, or the checkpoint's code revision and epoch
    notice: str | None
    manifest_path: Path | None  # the data set it was trained on, where that is known
    calibration: Calibration | None  # as shipped; None: still to be fitted
    points: Mapping[str, OperatingPoint] | None
    max_bad_fraction: float | None = None  # of the films, as it was trained; None: not known


class TorchEngine:
    """A checkpoint's model as an engine: the same contract, without a graph."""

    def __init__(
        self, model: Classifier, kind: HeadKind, device: torch.device | None = None
    ) -> None:
        """``device``: where it computes; ``None``: on the CPU."""
        self._device = device or torch.device("cpu")
        self._model = WithMaps(model, kind).eval().to(self._device)

    @property
    def name(self) -> str:
        """As in results: ``torch-cpu``, ``torch-cuda``."""
        return f"torch-{self._device.type}"

    @torch.no_grad()
    def run(self, images: UInt8Array) -> EngineOutput:
        """``[N, 1, S, S]`` uint8 to probabilities and maps."""
        probability, cam = self._model(torch.from_numpy(images).to(self._device))
        return EngineOutput(probability=probability.cpu().numpy(), cam=cam.cpu().numpy())


def open_model(location: str, settings: Settings) -> Model:
    """The checkpoint folder, package folder, archive or s3:// package at ``location``.

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
    return Model(
        engine=TorchEngine(
            found.model, found.schema.kind, processes.scoring_device(config.compute.device)
        ),
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
        schema=manifest.label_set.as_schema,
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
    """A model's outputs on a split."""

    raw: Float32Array  # [N, K], before calibration
    cam: Float32Array  # [N, K, h, w]


def run(
    engine: Engine,
    films: Films,
    mask: Mask | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run every film, changed by ``mask`` if there is one, in batches of :data:`BATCH`."""
    raw, cam = [], []
    for start in range(0, len(films), BATCH):
        images = np.array(films.images[start : start + BATCH])
        if mask is not None:
            for n in range(len(images)):
                images[n] = mask(images[n], films.placement(start + n))
        output = engine.run(images)
        raw.append(output.probability)
        cam.append(output.cam)
        if progress is not None:
            progress(min(start + BATCH, len(films)), len(films))
    return Run(raw=np.concatenate(raw), cam=np.concatenate(cam))
