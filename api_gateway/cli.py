"""``hilum gateway``."""

from __future__ import annotations

import socket

import click
import uvicorn

from api_gateway import metrics
from api_gateway.app import create_app
from api_gateway.protocol import MAX_HEADER_BYTES, limit_protocol
from hilum import settings as hilum_settings
from hilum.db import version
from hilum.db.connection import Database
from hilum.errors import ConfigurationError


@click.command()
@click.option("--host", help="Address to listen on, instead of HILUM_GATEWAY__HOST.")
@click.option("--port", type=int, help="0: any free port; instead of HILUM_GATEWAY__PORT.")
def gateway(host: str | None, port: int | None) -> None:
    """Run the HTTP gateway until SIGTERM or Ctrl-C."""
    settings = hilum_settings.load()
    with Database(settings.database_url) as database:
        version.check(database)
    address = (
        settings.gateway.host if host is None else host,
        settings.gateway.port if port is None else port,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            access_log=False,  # it prints paths and queries; our access log does not
            log_config=None,
            http=limit_protocol(settings.gateway),
            ws="none",
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_graceful_shutdown=30,
            server_header=False,
        )
    )
    try:
        listener = socket.create_server(address)
    except OSError as error:
        raise ConfigurationError(
            f"HILUM_GATEWAY__PORT: cannot listen on {address[0]}:{address[1]} ({error.strerror})."
        ) from None
    with (
        listener,
        metrics.serve(settings.gateway.metrics_address, settings.database_url),
    ):
        bound_host, bound_port = listener.getsockname()[:2]
        click.echo(f"listening on http://{bound_host}:{bound_port}")
        server.run(sockets=[listener])
