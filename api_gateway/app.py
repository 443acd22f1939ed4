"""The HTTP application and its parts."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from api_gateway import campaigns, feedback, images, jobs, operations, problems, studies
from api_gateway.middleware import AccessLog
from api_gateway.overlays import Renderer
from api_gateway.publisher import Publisher
from api_gateway.readiness import Readiness
from api_gateway.schemas import CamOut
from api_gateway.services import Services
from hilum import __version__, tracing
from hilum.db.connection import Database
from hilum.deidentify.pseudonyms import open_pseudonyms
from hilum.sandbox import Decoders
from hilum.settings import Settings
from hilum.storage import open_store

_THREADS = 8  # of all requests together, except overlays
_DESCRIPTION = """\
Chest X-ray inference. Register a study by the S3 keys of its images, poll it, read probabilities,
findings and Grad-CAM maps. Every failure is `application/problem+json` with a stable `code`.
"""


def create_app(settings: Settings) -> FastAPI:
    """Create the gateway. It connects to nothing before the first request."""
    database = Database(settings.database_url)
    publisher = Publisher(
        settings.broker_url.get_secret_value(),
        database,
        visibility_timeout_s=settings.worker.visibility_timeout_s,
    )
    gateway = settings.gateway
    decoders = Decoders(gateway.render_threads, settings.limits, tasks="hilum.pipeline.tasks")
    renderer = Renderer(threads=gateway.render_threads, queue=gateway.render_queue)
    readiness = Readiness(settings.database_url, publisher)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # A busy thread yields the interpreter only every few milliseconds: with many of them the
        # event loop, and with it the liveness probe, would wait for all of them in turn.
        current_default_thread_limiter().total_tokens = _THREADS
        # What lives as long as the process need not be searched for garbage again and again: a
        # large page makes so many objects that this took a fifth of its time.
        gc.collect()
        gc.freeze()
        tracing.configure(settings.tracing, service="hilum-gateway")
        yield
        renderer.close()
        readiness.close()
        publisher.close()
        decoders.close()
        database.dispose()
        tracing.close()

    # The scripts of /docs are in our package: a hospital network has no CDN.
    app = FastAPIOffline(
        title="hilum",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header of the client
    )
    app.state.services = Services(
        settings=settings,
        database=database,
        store=open_store(settings.s3, settings.limits),
        publisher=publisher,
        overlays=renderer,
        readiness=readiness,
        decoders=decoders,
        pseudonyms=(open_pseudonyms(settings.deidentify) if settings.deidentify.results else None),
    )
    for part in (studies, images, feedback, jobs, campaigns, operations):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(AccessLog)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema["components"]["schemas"]
        template = "#/components/schemas/{model}"
        for model in (problems.Problem, CamOut):
            found = model.model_json_schema(ref_template=template)
            schemas.update(found.pop("$defs", {}))
            schemas[model.__name__] = found
        # FastAPI documents its own error body, which no route here sends.
        for path in schema["paths"].values():
            for operation in path.values():
                if "422" in (responses := operation["responses"]):
                    responses["422"] = problems.documented(422)[422]
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = schema
    return app.openapi_schema
