"""Campaigns, and the model in force for the key's tenant."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from api_gateway.auth import Reader, requires
from api_gateway.door import GuardedRoute
from api_gateway.problems import documented
from api_gateway.schemas import PRINTABLE, Id
from api_gateway.services import Services, ServicesDep
from hilum.campaigns import comparing, creating, page, presenting, steps
from hilum.campaigns.comparing import Changed
from hilum.campaigns.creating import Wish
from hilum.campaigns.page import Look, Picture
from hilum.campaigns.windows import Overlap, Window
from hilum.db import models, results, serving
from hilum.db.campaigns import promotions, rows
from hilum.db.campaigns.promotions import Notify
from hilum.db.campaigns.selection import Mode, Selection
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.keys import ApiKey, Scope
from hilum.db.results import StoredResult

router = APIRouter(tags=["campaigns"], route_class=GuardedRoute)

Admin = Annotated[ApiKey, Depends(requires(Scope.ADMIN))]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=PRINTABLE)]
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
}


_REPORT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}, "application/json": {}}}
}


class WindowIn(BaseModel):
    """When the campaign may run, in local time."""

    model_config = ConfigDict(extra="forbid")

    start: time
    end: time
    days: list[int] = Field(default=[*range(7)], description="of the start; Monday is 0")
    time_zone: str = Field(max_length=64, examples=["Europe/Berlin"])
    overlap: Overlap = Overlap.SKIP


class CampaignIn(BaseModel):
    """A campaign to plan or create."""

    model_config = ConfigDict(extra="forbid")

    name: Name = "rescore"
    model: Name | None = Field(
        default=None, description="digest of a registered model; null: the model in force"
    )
    modes: list[Mode] = Field(default=[Mode.MISSING], min_length=1, max_length=5)
    selection: Selection = Selection()
    window: WindowIn | None = None
    nightly: bool = Field(default=False, description="create it again at each opening")
    images_per_s: float | None = Field(default=None, gt=0)
    max_in_flight: int = Field(default=2000, ge=1, le=10**6)
    max_failure_rate: float | None = Field(default=0.2, ge=0, le=1)


class CampaignOut(BaseModel):
    """How a campaign stands. All numbers are kept with the campaign; nothing is counted."""

    model_config = ConfigDict(extra="allow")

    id: str
    name: str
    status: CampaignStatus
    waits_for: str | None = Field(description="what keeps it from going on")
    model: str = Field(description="digest of the package")
    frozen: bool = Field(description="its selection is complete")
    counts: dict[str, int]
    codes: dict[str, int] = Field(description="images that were refused or failed, by code")


class CampaignList(BaseModel):
    """The newest campaigns of the tenant."""

    campaigns: list[CampaignOut]


class PromotionIn(BaseModel):
    """How to put the model of a campaign in force."""

    model_config = ConfigDict(extra="forbid")

    share: float | None = Field(
        default=None, gt=0, le=1, description="of the studies, as a canary; null: all of them"
    )
    base: Name | None = Field(default=None, description="for a first canary: what others show")
    unfinished: bool = False
    notify: list[Name] = Field(
        default=[], max_length=20, description="destinations that are told; none by default"
    )
    per_minute: float = Field(default=60, gt=0)


class InForce(BaseModel):
    """What the tenant's studies show."""

    model: str | None = Field(description="digest; null: each study shows its own results")
    pipeline: str | None = None
    canary: dict[str, Any] | None
    changed_at: str | None = None


@router.post(
    "/v1/campaigns/plan",
    operation_id="planCampaign",
    responses=documented(404, 422),
    summary="What a campaign would do; nothing is changed",
)
def plan(new: CampaignIn, key: Reader, services: ServicesDep) -> dict[str, Any]:
    """Counts of the selected instances, an estimate of the time, and some of the films."""
    wish = _wish(new, key.tenant)
    with services.database.read() as connection:
        model = creating.registered(connection, key.tenant, wish.model)
    made = creating.plan(services.database, wish, model, images_per_s=None)
    return made.document(addresses=False)


@router.post(
    "/v1/campaigns",
    status_code=201,
    operation_id="createCampaign",
    responses=documented(404, 409, 422),
    summary="Create a campaign",
)
def create(new: CampaignIn, key: Admin, services: ServicesDep, response: Response) -> CampaignOut:
    """Its selection is frozen by the workers. Start it with `POST …/run`; it begins as soon as
    `frozen` is true."""
    wish = _wish(new, key.tenant)
    with services.database.read() as connection:
        model = creating.registered(connection, key.tenant, wish.model)
    campaign_id = creating.create(services.database, wish, model, actor=key.id)
    steps.step(services.database, campaign_id)
    response.headers["Location"] = f"/v1/campaigns/{campaign_id}"
    return _out(services, key, campaign_id)


@router.get(
    "/v1/campaigns",
    operation_id="listCampaigns",
    responses=documented(),
    summary="The tenant's newest campaigns",
)
def listing(
    key: Reader, services: ServicesDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> CampaignList:
    """Newest first."""
    with services.database.read() as connection:
        found = rows.listing(connection, tenant=key.tenant, limit=limit)
        shown = [presenting.status(connection, one) for one in found]
    return CampaignList(campaigns=[CampaignOut.model_validate(one) for one in shown])


@router.get(
    "/v1/campaigns/{campaign_id}",
    operation_id="getCampaign",
    responses=documented(404, 422),
    summary="How a campaign stands",
)
def get(campaign_id: Id, key: Reader, services: ServicesDep) -> CampaignOut:
    """Its counts, its window, what it waits for, and its error."""
    return _out(services, key, campaign_id)


@router.get(
    "/v1/campaigns/{campaign_id}/report",
    operation_id="reportCampaign",
    response_model=None,
    responses={**_REPORT, **documented(404, 422)},
    summary="The campaign's results against what is shown now",
)
def report(
    campaign_id: Id,
    key: Reader,
    services: ServicesDep,
    format: Literal["json", "html"] = "json",
    sample: Annotated[int, Query(ge=1, le=50_000)] = 20_000,
) -> Response | dict[str, Any]:
    """Of a larger campaign than `sample`, every n-th film is taken. The page shows maps without
    their films; `hilum rescore report` shows both."""
    with services.database.read() as connection:
        campaign = rows.get(connection, campaign_id, tenant=key.tenant)
        found = comparing.compare(connection, campaign, at_most=sample)
    if format == "json":
        return found.document

    def look(one: Changed) -> Look:
        before = one.pair.before
        ids = [one.pair.after.result_id] + ([before.result_id] if before else [])
        with services.database.read() as connection:
            stored = results.get_many(connection, ids, maps=True)
        maps = [_map(stored[each], one.label) for each in ids]
        return Look(after=maps[0], before=maps[1] if before else None)

    return HTMLResponse(page.render(found, look), headers=_HEADERS)


@router.post(
    "/v1/campaigns/{campaign_id}/promotion",
    operation_id="promoteCampaign",
    responses=documented(404, 409, 422),
    summary="Put the campaign's model in force",
)
def promote(campaign_id: Id, new: PromotionIn, key: Admin, services: ServicesDep) -> InForce:
    """One row changes, whatever the number of results. New studies are bound to the model."""
    notify = Notify(destinations=tuple(new.notify), per_minute=new.per_minute)
    with services.database.read() as connection:
        base = creating.registered(connection, key.tenant, new.base).id if new.base else None
    with services.database.write() as connection:
        promotions.promote(
            connection,
            campaign_id,
            actor=key.id,
            tenant=key.tenant,
            share=new.share,
            base_model_id=base,
            notify=notify if new.notify else None,
            unfinished=new.unfinished,
        )
    return _in_force(services, key)


# Behind the route of promotions, whose path it matches, too.
@router.post(
    "/v1/campaigns/{campaign_id}/{action}",
    operation_id="changeCampaign",
    responses=documented(404, 409, 422),
    summary="Run, pause, resume or cancel a campaign",
)
def change(
    campaign_id: Id,
    action: Literal["run", "pause", "resume", "cancel"],
    key: Admin,
    services: ServicesDep,
) -> CampaignOut:
    """Repeating a change has no effect."""
    to = {
        "run": CampaignStatus.RUNNING,
        "resume": CampaignStatus.RUNNING,
        "pause": CampaignStatus.PAUSED,
        "cancel": CampaignStatus.CANCELLED,
    }[action]
    with services.database.write() as connection:
        rows.set_status(connection, campaign_id, to, actor=key.id, tenant=key.tenant)
    return _out(services, key, campaign_id)


@router.get(
    "/v1/serving",
    operation_id="getServing",
    responses=documented(),
    summary="The model in force for the tenant",
)
def get_serving(key: Reader, services: ServicesDep) -> InForce:
    """With its canary, if there is one."""
    return _in_force(services, key)


@router.post(
    "/v1/serving/rollback",
    operation_id="rollBackServing",
    responses=documented(409),
    summary="Restore what was in force before the last promotion",
)
def roll_back(key: Admin, services: ServicesDep) -> InForce:
    """Each call takes one more promotion back."""
    with services.database.write() as connection:
        promotions.roll_back(connection, key.tenant, actor=key.id)
    return _in_force(services, key)


def _map(result: StoredResult, label: str) -> Picture:
    """The map of the label; ``None`` if it was not kept, or the model has no such label."""
    labels = result.model.labels
    return result.cam_of(labels.index(label)) if label in labels else None


def _wish(new: CampaignIn, tenant: str) -> Wish:
    window = None
    if new.window is not None:
        window = Window.checked(new.window.model_dump())
    return Wish(
        tenant=tenant,
        model=new.model,
        modes=tuple(new.modes),
        selection=new.selection,
        name=new.name,
        window=window,
        images_per_s=new.images_per_s,
        max_in_flight=new.max_in_flight,
        max_failure_rate=new.max_failure_rate,
        nightly=new.nightly,
    )


def _out(services: Services, key: ApiKey, campaign_id: str) -> CampaignOut:
    with services.database.read() as connection:
        campaign = rows.get(connection, campaign_id, tenant=key.tenant)
        return CampaignOut.model_validate(presenting.status(connection, campaign))


def _in_force(services: Services, key: ApiKey) -> InForce:
    with services.database.read() as connection:
        digests = {one.id: one.digest for one in models.listing(connection)}
        now = serving.get(connection, key.tenant)
    return InForce.model_validate(presenting.in_force(now, digests))
