"""From rows of the database to the bodies of answers."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from api_gateway.schemas import (
    ErrorOut,
    FindingOut,
    ImageOut,
    ModelOut,
    RegisteredModelOut,
    ResultOut,
)
from hilum.db.models import RegisteredModel
from hilum.db.results import StoredResult
from hilum.db.studies import ImageState
from hilum.deidentify.pseudonyms import Pseudonyms
from hilum.packages.registered import manifest_of
from hilum.pipeline.admit import sure_doubts


def study_url(study_id: str) -> str:
    """Relative to the host."""
    return f"/v1/studies/{study_id}"


def image_url(study_id: str, image_id: str) -> str:
    """Relative to the host."""
    return f"{study_url(study_id)}/images/{image_id}"


def image(
    state: ImageState, result: StoredResult | None, pseudonyms: Pseudonyms | None
) -> ImageOut:
    """An image with its result, if it has one. ``pseudonyms``, if given, replace its UIDs."""
    url = image_url(state.study_id, state.id)
    return ImageOut(
        id=state.id,
        position=state.position,
        status=state.status,
        url=url,
        error=ErrorOut.of(state.error),
        result=None if result is None else _result(result, url, pseudonyms),
    )


def model(registered: RegisteredModel) -> RegisteredModelOut:
    """A model with its labels and operating points."""
    manifest = manifest_of(registered)
    return RegisteredModelOut(
        **_model(registered).model_dump(),
        labels=list(manifest.label_set.labels),
        operating_points={
            label: point.threshold for label, point in manifest.operating_points.items()
        },
        intended_use=manifest.intended_use,
        registered_at=registered.registered_at,
    )


def _result(result: StoredResult, url: str, pseudonyms: Pseudonyms | None) -> ResultOut:
    show = str if pseudonyms is None else pseudonyms.uid
    labels, manifest = result.model.labels, manifest_of(result.model)
    queries = _cam_queries(labels)
    return ResultOut(
        notice=manifest.notice,
        sop_instance_uid=show(result.sop_instance_uid),
        series_instance_uid=show(result.series_instance_uid),
        study_instance_uid=show(result.study_instance_uid),
        doubts=list(sure_doubts(result.flags)),
        probabilities=dict(zip(labels, result.probability.tolist(), strict=True)),
        raw=dict(zip(labels, result.raw.tolist(), strict=True)),
        findings=[
            FindingOut(label=f.label, probability=f.probability, threshold=f.threshold)
            for f in result.findings
        ],
        flags=list(result.flags),
        model=_model(result.model),
        engine=result.engine,
        engine_reason=result.engine_reason,
        scored_at=result.created_at,
        cam={labels[k]: url + queries[k] for k in result.cam_labels},
    )


@lru_cache(maxsize=64)
def _cam_queries(labels: tuple[str, ...]) -> list[str]:
    return [f"/cam?label={quote(label, safe='')}" for label in labels]


def _model(registered: RegisteredModel) -> ModelOut:
    manifest = manifest_of(registered)
    return _model_out(
        manifest.name, manifest.version, registered.digest, manifest.demonstration_only
    )


@lru_cache(maxsize=64)  # every result of a page names its model
def _model_out(name: str, version: str, digest: str, demonstration_only: bool) -> ModelOut:
    return ModelOut(
        name=name, version=version, digest=digest, demonstration_only=demonstration_only
    )
