"""From the result of the pipeline for an image to its outcome in SQL."""

from __future__ import annotations

from hilum.db.claims import NotScored, Scored
from hilum.db.instances import NewInstance
from hilum.db.results import NewResult
from hilum.db.states import ItemStatus
from hilum.engines.loading import reason_of
from hilum.errors import AttemptsExhaustedError, PermanentError, UnexpectedError
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Score
from hilum.pipeline.version import pipeline_version
from hilum.settings import CamPolicy


def scored(
    image_id: str,
    score: Score,
    *,
    scorer: Scorer,
    model_id: int,
    cam_policy: CamPolicy,
    instance: NewInstance | None = None,
) -> Scored:
    """The outcome of a scored image. ``cam_policy`` decides which maps are stored."""
    labels = scorer.package.manifest.label_set
    kept = {
        "all": tuple(range(len(labels.labels))),
        "findings": tuple(labels.index(finding.label) for finding in score.findings),
        "none": (),
    }[cam_policy]
    result = NewResult(
        sop_instance_uid=score.sop_instance_uid,
        series_instance_uid=score.series_instance_uid,
        study_instance_uid=score.study_instance_uid,
        content_sha256=score.content_sha256,
        model_id=model_id,
        pipeline=pipeline_version(),
        rows=score.rows,
        columns=score.columns,
        raw=score.raw,
        probability=score.probability,
        findings=score.findings,
        cam=score.cam[list(kept)],
        cam_labels=kept,
        engine=scorer.engine.name,
        engine_reason=reason_of(scorer.engine),
        flags=score.flags,
    )
    return Scored(image_id=image_id, result=result, instance=instance)


def not_scored(
    image_id: str, error: PermanentError, *, instance: NewInstance | None = None
) -> NotScored:
    """The outcome of an image with an error: refused for an error of the image, failed for an error
    of hilum."""
    ours = isinstance(error, UnexpectedError | AttemptsExhaustedError)
    status = ItemStatus.FAILED if ours else ItemStatus.REFUSED
    return NotScored(image_id=image_id, status=status, error=error, instance=instance)
