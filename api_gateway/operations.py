"""Models, and the probes of operators."""

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
    summary="The models that have produced results here, newest first",
)
def list_models(_key: Reader, services: ServicesDep) -> list[RegisteredModelOut]:
    """Each model package once, with its digest."""
    with services.database.read() as connection:
        return [presenters.model(found) for found in models.listing(connection)]


@router.get("/healthz", tags=["health"], operation_id="health", summary="Is the process alive?")
async def health() -> Health:
    """Checks the process only."""
    return Health(status="ok", checks={})


@router.get(
    "/readyz",
    tags=["health"],
    operation_id="ready",
    summary="Can the gateway accept studies?",
    responses={
        503: {
            "model": Health,
            "description": "No: the database is unavailable, full, locked or not migrated",
        }
    },
)
async def ready(services: ServicesDep, response: Response) -> Health:
    """The database must be migrated and commit a write within seconds. The broker need not answer:
    studies are accepted without it and published by the sweeper of the workers. A missing broker
    is therefore `degraded`, not unready."""
    checks = await services.readiness.checks()
    if checks["database"] != "ok":
        response.status_code = 503
    fine = set(checks.values()) == {"ok"}
    return Health(status="ok" if fine else "degraded", checks=checks)
