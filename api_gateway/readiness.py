"""Checks whether the gateway can accept studies: the database must commit a write in time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from api_gateway.publisher import Publisher
from hilum.db import probe, version
from hilum.db.connection import Database
from hilum.errors import HilumError, SchemaOutdatedError, SchemaTooNewError

_PATIENCE_S = 4.0
_DATABASE_WAIT_S = 2.0  # for a lock, or a connection


class Readiness:
    """Runs one check at a time, in a thread of its own. Concurrent probes share it."""

    def __init__(self, database_url: str, publisher: Publisher) -> None:
        self._database = Database(database_url, pool_size=1, wait_s=_DATABASE_WAIT_S)
        self._publisher = publisher
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._look: asyncio.Future[dict[str, str]] | None = None

    async def checks(self) -> dict[str, str]:
        """The state of the database and the broker: `ok`, or what is wrong."""
        if self._look is None or self._look.done():
            loop = asyncio.get_running_loop()
            self._look = loop.run_in_executor(self._pool, self._find)
        done, _ = await asyncio.wait({self._look}, timeout=_PATIENCE_S)
        return self._look.result() if done else {"database": "timeout", "broker": "unknown"}

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._database.dispose()

    def _find(self) -> dict[str, str]:
        try:
            version.check(self._database)
            probe.require_writable(self._database)
            database = "ok"
        except SchemaOutdatedError:
            database = "not migrated"
        except SchemaTooNewError as error:
            database = error.detail  # names the code that the schema needs
        except HilumError as error:
            database = error.code
        return {"database": database, "broker": "ok" if self._publisher.ping() else "away"}
