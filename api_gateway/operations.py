"""Models, and what an operator's probes ask."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api_gateway import presenters
from api_gateway.auth import Reader
from api_gateway.door import GuardedRoute
from api_gateway.problems import documented
from api_gateway.schemas import Health, RegisteredModelOut
from api_gateway.services import ServicesDep
from hilum.db import models

router = APIRouter(route_class=GuardedRoute)


@router.get(
    "/v1/models",
    tags=["models"],
    operation_id="listModels",
    responses=documented(),
    summary="The models that have served here, newest first",
)
def list_models(_key: Reader, services: ServicesDep) -> list[RegisteredModelOut]:
    """Each model package once, by its digest."""
    with services.database.read() as connection:
        return [presenters.model(found) for found in models.listing(connection)]


@router.get("/healthz", tags=["health"], operation_id="health", summary="Is the process alive?")
async def health() -> Health:
    """Touches nothing but the process."""
    return Health(status="ok", checks={})


@router.get(
    "/readyz",
    tags=["health"],
    operation_id="ready",
    summary="Can studies be taken?",
    responses={
        503: {
            "model": Health,
            "description": "No: the database is away, full, locked or not migrated",
        }
    },
)
async def ready(services: ServicesDep, response: Response) -> Health:
    """SQL must be migrated and take a write, within seconds. The broker need not answer: studies
    are accepted without it and published by the workers' sweeper, so that its absence is
    `degraded`, not unready."""
    checks = await services.readiness.checks()
    if checks["database"] != "ok":
        response.status_code = 503
    fine = set(checks.values()) == {"ok"}
    return Health(status="ok" if fine else "degraded", checks=checks)
