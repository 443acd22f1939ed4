"""The parts that requests use, created once by the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from api_gateway.overlays import Renderer
from api_gateway.publisher import Publisher
from api_gateway.readiness import Readiness
from hilum.db.connection import Database
from hilum.deidentify.pseudonyms import Pseudonyms
from hilum.sandbox import Decoders
from hilum.settings import Settings
from hilum.storage import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Services:
    """The gateway's parts."""

    settings: Settings
    database: Database
    store: ObjectStore
    publisher: Publisher
    overlays: Renderer
    readiness: Readiness
    pseudonyms: Pseudonyms | None  # replace UIDs; None: UIDs are shown as they are
    decoders: Decoders


def services(request: Request) -> Services:
    """The parts of the application that serves ``request``."""
    return cast(Services, request.app.state.services)


async def _services(request: Request) -> Services:
    """Async, so that no thread is needed."""
    return services(request)


ServicesDep = Annotated[Services, Depends(_services)]
