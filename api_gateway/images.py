"""One image: its result and its maps."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api_gateway import errors, presenters
from api_gateway.auth import Reader
from api_gateway.door import GuardedRoute
from api_gateway.problems import documented
from api_gateway.schemas import CamOut, Id, ImageOut
from api_gateway.services import Services, ServicesDep
from api_gateway.studies import find
from hilum.db import results, studies
from hilum.db.results import StoredResult
from hilum.db.studies import ImageState
from hilum.imaging import heatmaps, rendering
from hilum.imaging.transform import Float32Array, Placement
from hilum.packages.registered import manifest_of
from hilum.pipeline.admit import sure_doubts, warning

router = APIRouter(
    prefix="/v1/studies/{study_id}/images/{image_id}", tags=["images"], route_class=GuardedRoute
)

Format = Literal["png", "json", "npy"]
_MEDIA = {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}


@router.get(
    "", operation_id="getImage", responses=documented(404, 422), summary="An image's result"
)
def get(study_id: Id, image_id: Id, key: Reader, services: ServicesDep) -> ImageOut:
    """Probabilities and findings, or the error of the image."""
    state, result = _find_image(services, key.tenant, study_id, image_id)
    return presenters.image(state, result, services.pseudonyms)


@router.get(
    "/cam",
    operation_id="getCam",
    responses={
        **documented(404, 409, 410, 422),
        200: {
            "description": "The map: over the film as PNG, or as numbers",
            "content": {
                "image/png": {},
                "application/json": {"schema": {"$ref": "#/components/schemas/CamOut"}},
                "application/x-npy": {},
            },
        },
    },
    response_model=None,
    response_class=Response,
    summary="The Grad-CAM map of one label",
)
async def cam(  # noqa: PLR0917 -- FastAPI calls it, by name
    study_id: Id,
    image_id: Id,
    label: Annotated[str, Query(max_length=200, description="one of the model's labels")],
    key: Reader,
    services: ServicesDep,
    request: Request,
    wanted: Annotated[
        Format | None,
        Query(alias="format", description="instead of the Accept header; `png` by default"),
    ] = None,
    mask_text: Annotated[
        bool, Query(description="cover what looks like burnt-in text; PNG only")
    ] = False,
) -> Response:
    """`png`: the film with the map over it, rendered now from the object that was scored.
    `json`, `npy`: the grid of the graph, float32."""
    kind = wanted or _negotiate(request.headers.get("accept", ""))
    masked = mask_text or services.settings.deidentify.results
    known = request.headers.get("if-none-match")

    def answer(check: Callable[[], None]) -> Response:
        state, result = _find_image(services, key.tenant, study_id, image_id)
        if result is None:
            raise errors.ImageNotScoredError(f"The image is {state.status.value}; there is no map.")
        chosen = _Map.of(result, label)
        tag = _etag(result, label, f"{kind}/masked" if masked else kind)
        kept = "no-store" if kind == "png" else "private, max-age=3600"  # no cache may keep a film
        headers = {"ETag": tag, "Cache-Control": kept, "Vary": "Accept"}
        if known == tag:
            return Response(status_code=304, headers=headers)
        if kind == "png":
            content = _overlay(services, state, result, chosen, check=check, mask_text=masked)
        elif kind == "npy":
            out = io.BytesIO()
            np.save(out, chosen.grid.astype("<f4"))
            content = out.getvalue()
        else:
            content = _numbers(result, chosen).model_dump_json().encode()
        return Response(content, media_type=_MEDIA[kind], headers=headers)

    if kind != "png":
        return await run_in_threadpool(answer, lambda: None)
    return await services.overlays.render(request, answer)


@dataclass(frozen=True, kw_only=True)
class _Map:
    label: str
    grid: Float32Array
    probability: float

    @classmethod
    def of(cls, result: StoredResult, label: str) -> _Map:
        labels = result.model.labels
        if label not in labels:
            raise errors.LabelUnknownError(f"The model's labels are {', '.join(labels)}.")
        index = labels.index(label)
        grid = result.cam_of(index)
        if grid is None:
            raise errors.CamNotKeptError("The map of this label was not kept.")
        probability = float(result.probability[index])
        return cls(label=label, grid=grid, probability=probability)


def _find_image(
    services: Services, tenant: str, study_id: str, image_id: str
) -> tuple[ImageState, StoredResult | None]:
    study = find(services, tenant, study_id)
    with services.database.read() as connection:
        state = studies.get_image(connection, study=study, image_id=image_id)
        if state is None:
            raise errors.ImageUnknownError("The study has no such image.")
        if state.result_id is None:
            return state, None
        return state, results.get(connection, state.result_id)


def _overlay(
    services: Services,
    state: ImageState,
    result: StoredResult,
    chosen: _Map,
    *,
    check: Callable[[], None],
    mask_text: bool,
) -> bytes:
    data = services.store.read(state.uri)
    check()
    if hashlib.sha256(data).digest() != result.content_sha256:
        raise errors.SourceChangedError("The object has changed since it was scored.")
    manifest = manifest_of(result.model)
    return rendering.render(
        data,
        rendering.Heat(
            grid=chosen.grid,
            probability=chosen.probability,
            input_size=manifest.input.size,
        ),
        rendering.Look(
            max_side=services.settings.gateway.overlay_max_side,
            caption=heatmaps.caption(warning(result.flags), manifest.notice),
            mask_text=mask_text,
            regions=services.settings.deidentify.regions,
        ),
        decoders=services.decoders,
    )


def _numbers(result: StoredResult, chosen: _Map) -> CamOut:
    manifest = manifest_of(result.model)
    size = manifest.input.size
    place = Placement.letterbox(height=result.rows, width=result.columns, size=size)
    return CamOut(
        label=chosen.label,
        probability=chosen.probability,
        grid=chosen.grid.tolist(),
        input_size=size,
        film_box=(place.x0, place.y0, place.x1, place.y1),
        doubts=list(sure_doubts(result.flags)),
        notice=manifest.notice,
    )


def _negotiate(accept: str) -> Format:
    """The first format that the client names; PNG if it names none."""
    kinds: tuple[Format, ...] = ("png", "json", "npy")
    named = {kind: accept.find(_MEDIA[kind]) for kind in kinds}
    present = [kind for kind in kinds if named[kind] >= 0]
    return min(present, key=lambda kind: named[kind], default="png")


def _etag(result: StoredResult, label: str, kind: str) -> str:
    text = f"{result.id}/{result.model.digest}/{label}/{kind}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
