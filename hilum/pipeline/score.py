"""Score images that are ready, with one engine call for a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hilum.engines import Engine
from hilum.errors import HilumError, UnexpectedError
from hilum.errors.guarding import capture_failure
from hilum.packages.findings import above_operating_point, calibrate
from hilum.packages.load import Package
from hilum.pipeline.stages import Ready, Score


class Scorer:
    """Scores with one model, on the engine that :func:`hilum.engines.loading.open_engine` opened
    for it. The verified package has the calibration and the thresholds."""

    def __init__(self, package: Package, engine: Engine) -> None:
        self.package = package
        self.engine = engine

    def score(self, batch: Sequence[Ready]) -> list[Score]:
        """Score ``batch``, in its order. Only one thread may call it at a time.

        Raises:
            EngineFailedError: the engine failed; no image of the batch has a score.
            UnexpectedError: the engine gave a value that is not a number.
        """
        step = self.package.manifest.input.max_batch
        return [
            score
            for start in range(0, len(batch), step)
            for score in self._run(batch[start : start + step])
        ]

    def score_each(self, batch: Sequence[Ready]) -> list[Score | HilumError]:
        """Like :meth:`score`, but an image that makes the batch fail affects no other image: the
        batch is then run again image by image."""
        together = capture_failure(lambda: self.score(batch))
        if not isinstance(together, HilumError):
            return [*together]
        if len(batch) == 1:
            return [together]
        return [result for image in batch for result in self.score_each([image])]

    def _run(self, batch: Sequence[Ready]) -> Iterator[Score]:
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
