"""The pipeline from the bytes of one object to its score, shared by the command and the worker.

:meth:`Scorer.prepare` (open, check, decode, preprocess) costs the most and runs on many
threads; :meth:`Scorer.score` is one engine call for a batch. :mod:`hilum.streaming` keeps both
busy over any number of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hilum import policy, preprocess
from hilum.dicom import FilmHeader, open_film
from hilum.engines import Engine
from hilum.errors import HilumError, OutOfMemoryError, UnexpectedError
from hilum.findings import Finding, above_operating_point, calibrate
from hilum.model_input import model_input
from hilum.package_io import Package
from hilum.rendering import preview
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Prepared:
    """One image, ready for the engine."""

    content_sha256: bytes
    header: FilmHeader
    model_input: preprocess.ModelInput
    flags: tuple[str, ...]  # what the policy let pass with a remark
    preview: Float32Array | None  # [H', W'] in [0, 1], the film made smaller for display


@dataclass(frozen=True, kw_only=True, eq=False)
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
    """

    def __init__(
        self, package: Package, engine: Engine, limits: Limits, *, preview_side: int | None = None
    ) -> None:
        self.package = package
        self.engine = engine
        self._limits = limits
        self._preview_side = preview_side

    def prepare(self, data: bytes) -> Prepared:
        """Check, decode and preprocess one DICOM object, PNG or JPEG; from any number of threads.

        Raises:
            DicomError: not a usable image; a subclass says why.
            NotApplicableError: an image this model must not score.
        """
        manifest = self.package.manifest
        opened = open_film(data, self._limits)
        flags = policy.check(opened.header, manifest.policy)
        side = self._preview_side
        return Prepared(
            content_sha256=hashlib.sha256(data).digest(),
            header=opened.header,
            model_input=model_input(opened, manifest.preprocess),
            flags=flags,
            # Decoded by itself, so that who looks at it does not change the numbers.
            preview=preview(opened, side) if side else None,
        )

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


def guarded(step: Callable[[], T]) -> T | HilumError:
    """What ``step`` returns, or its failure as a value: one image never stops the others.

    An exception that hilum did not foresee becomes an :class:`UnexpectedError` that names its
    type and where it was raised; its text could hold anything, so it is left out.
    """
    try:
        return step()
    except HilumError as error:
        failure = error
    except MemoryError:
        failure = OutOfMemoryError("There was not enough memory for this image.")
    except Exception as error:
        failure = UnexpectedError(f"{type(error).__name__} in {_place(error)}.")
    # Frames in tracebacks hold decoded films; a queue of failures must not.
    failure.__traceback__ = failure.__context__ = failure.__cause__ = None
    return failure


def _place(error: Exception) -> str:
    """``module:line`` of the innermost frame of ours."""
    place, step = "?", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "?")
        if module.partition(".")[0] == __name__.partition(".")[0]:
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place
