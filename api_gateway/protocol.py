"""HTTP/1.1 of uvicorn, with limits on the number of connections and on their waiting time.

uvicorn 0.5x limits the time between two requests only: without this, anyone could keep a connection
open for ever by sending nothing, or a header now and then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from hilum.settings import GatewaySettings

MAX_HEADER_BYTES = 16 * 1024


def limit_protocol(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with the limits of ``settings``."""

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.abort()
                return
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            """Close the connection unless the whole head of a request arrives in time."""
            waiting: Any = self.cycle is None or self.cycle.response_complete
            if not waiting or self.transport.is_closing():
                self._forget()
            elif self._deadline is None:
                wait_s = settings.header_timeout_s
                self._deadline = self.loop.call_later(wait_s, self._cut_off)

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _cut_off(self) -> None:
            self._deadline = None
            self.transport.abort()

    return Protocol
