"""The pipeline from the bytes of one object to its score, shared by the command and the worker.

:meth:`Scorer.prepare` (open, check, decode, preprocess: :mod:`hilum.pipeline.examine`) costs the
most and runs in many decode processes; :meth:`Scorer.score` is one engine call for a batch.
:mod:`hilum.pipeline.execute` keeps both busy over any number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hilum.engines import Engine
from hilum.errors import HilumError, UnexpectedError
from hilum.errors.guarding import guarded
from hilum.packages.load import Package
from hilum.pipeline import examine as preparation
from hilum.pipeline.examine import Examined, Prepared, Recipe
from hilum.pipeline.findings import Finding, above_operating_point, calibrate
from hilum.sandbox import Decoders
from hilum.settings import Limits

__all__ = ["Prepared", "Score", "Scorer", "guarded"]

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Score:
    """What a model says about one image of K labels."""

    content_sha256: bytes
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    rows: int
    columns: int
    raw: Float32Array  # [K], as the graph gave it
    probability: Float32Array  # [K], calibrated
    findings: tuple[Finding, ...]
    cam: Float32Array  # [K, h, w], >= 0, over the model's square input
    flags: tuple[str, ...]
    preview: Float32Array | None = field(repr=False)


class Scorer:
    """One model on one engine.

    Args:
        package: verified; its manifest gives preprocessing, policy, calibration, thresholds.
        engine: of that package, see :func:`hilum.engines.loading.open_engine`.
        limits: of a single object.
        preview_side: keep each film, its long side at most this many pixels, for who shows it.
        decoders: where objects of others are decoded; ``None``: in this process, for one's own.
        keep: :meth:`examine` gives the intermediate of each film too, for a cache.
        identity: the headers say who the films are of, too.
    """

    def __init__(
        self,
        package: Package,
        engine: Engine,
        limits: Limits,
        *,
        preview_side: int | None = None,
        decoders: Decoders | None = None,
        keep: bool = False,
        identity: bool = False,
    ) -> None:
        self.package = package
        self.engine = engine
        self.recipe = Recipe(
            preprocess=package.manifest.preprocess,
            policy=package.manifest.policy,
            limits=limits,
            preview_side=preview_side,
            keep=keep,
            identity=identity,
        )
        self._examine = preparation.examiner(self.recipe, decoders)

    def prepare(self, data: bytes) -> Prepared:
        """Check, decode and preprocess one DICOM object, PNG or JPEG; from any number of threads.

        Raises:
            DicomError: not a usable image; a subclass says why.
            NotApplicableError: an image this model must not score.
            DecodersUnavailableError, OutOfMemoryError: of the decode processes.
        """
        return preparation.judged(self._examine(data), self.recipe)

    def examine(self, data: bytes) -> Examined:
        """As :meth:`prepare`, but what becomes of the image is left to
        :func:`hilum.pipeline.examine.judged`."""
        return self._examine(data)

    def score(self, batch: Sequence[Prepared]) -> list[Score]:
        """The scores of ``batch``, in its order; from one thread at a time.

        Raises:
            EngineFailedError: the engine failed; nothing of the batch is scored.
            UnexpectedError: it gave something that is not a number.
        """
        step = self.package.manifest.input.max_batch
        return [
            score
            for start in range(0, len(batch), step)
            for score in self._run(batch[start : start + step])
        ]

    def score_each(self, batch: Sequence[Prepared]) -> list[Score | HilumError]:
        """Like :meth:`score`, but an image that makes the batch fail spoils only itself: the
        batch is then run again image by image."""
        together = guarded(lambda: self.score(batch))
        if not isinstance(together, HilumError):
            return [*together]
        if len(batch) == 1:
            return [together]
        return [result for image in batch for result in self.score_each([image])]

    def _run(self, batch: Sequence[Prepared]) -> Iterator[Score]:
        manifest = self.package.manifest
        output = self.engine.run(np.stack([image.model_input.image for image in batch]))
        if not (np.isfinite(output.probability).all() and np.isfinite(output.cam).all()):
            raise UnexpectedError(f"Engine {self.engine.name} gave a value that is not a number.")
        probability = calibrate(output.probability, manifest.calibration, manifest.label_set.kind)
        for i, image in enumerate(batch):
            yield Score(
                content_sha256=image.content_sha256,
                sop_instance_uid=image.header.sop_instance_uid,
                series_instance_uid=image.header.series_instance_uid,
                study_instance_uid=image.header.study_instance_uid,
                rows=image.header.rows,
                columns=image.header.columns,
                raw=output.probability[i],
                probability=probability[i],
                findings=above_operating_point(probability[i], manifest),
                cam=output.cam[i],
                flags=image.flags,
                preview=image.preview,
            )
