"""Run the whole system on one machine: broker, S3, SQLite, one worker and the gateway."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hilum.db import migrate
from hilum.embedded.process import Child, accepts, free_ports
from hilum.embedded.seaweed import Seaweed
from hilum.embedded.valkey import Valkey
from hilum.settings import S3Settings

_START_S = 60


class Stack:
    """The whole system on free loopback ports, with its state below the folder ``var``.

    A context manager. At its end it stops all children, in an order that loses no work. The state
    stays in ``var``, and the next start continues from it.
    """

    def __init__(self, var: Path, *, port: int | None = None, model_uri: str | None = None) -> None:
        self._var = var.resolve()
        self._port = port
        self._model_uri = model_uri
        self._stops: list[Callable[[], object]] = []
        self._children: list[Child] = []
        self.database_url = f"sqlite:///{self._var / 'hilum.db'}"

    def __enter__(self) -> Stack:
        self._var.mkdir(parents=True, exist_ok=True)
        self._var.chmod(0o700)  # also one made by a release before
        for file in (self._var / "hilum.db", *self._var.glob("hilum.db-*")):
            file.touch(mode=0o600)
            file.chmod(0o600)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def url(self) -> str:
        """URL of the gateway."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def s3(self) -> S3Settings:
        """Settings of the embedded S3."""
        return self._seaweed.settings

    @property
    def logs(self) -> Path:
        """Folder of the logs of worker and gateway."""
        return self._var / "logs"

    def ended_child(self) -> Child | None:
        """A child that has ended unexpectedly, or ``None``."""
        return next((child for child in self._children if not child.running), None)

    def wait(self) -> Child:
        """Wait until a child ends unexpectedly, and return it."""
        while (child := self.ended_child()) is None:
            time.sleep(0.5)
        return child

    def _start(self) -> None:
        valkey = Valkey(self._var / "valkey")
        self._stops.append(valkey.stop)
        self._seaweed = Seaweed(self._var / "seaweed")
        self._stops.append(self._seaweed.stop)
        migrate.upgrade(self.database_url)
        if self._port is None:
            (self._port,) = free_ports(1)
        environment = self._environment(valkey.url)
        # Worker and gateway start while SeaweedFS is not ready yet.
        self._hilum("worker", environment)
        gateway = self._hilum("gateway", environment, "--port", str(self._port))
        self._seaweed.wait()
        gateway.wait_until(lambda: accepts(self._port or 0), timeout_s=_START_S)

    def _stop(self) -> None:
        # Stops the gateway first, then the worker, then the services they use.
        while self._stops:
            self._stops.pop()()

    def _hilum(self, command: str, environment: dict[str, str], *arguments: str) -> Child:
        child = Child(
            f"hilum {command}",
            [sys.executable, "-m", "hilum", command, *arguments],
            log=self.logs / f"{command}.log",
            env=environment,
        )
        self._stops.append(child.stop)
        self._children.append(child)
        return child

    def _environment(self, broker_url: str) -> dict[str, str]:
        """The environment of this process, with the addresses of this stack."""
        s3 = self.s3
        assert s3.endpoint_url is not None
        assert s3.access_key_id is not None
        assert s3.secret_access_key is not None
        model = {} if self._model_uri is None else {"HILUM_MODEL_URI": self._model_uri}
        return {
            **os.environ,
            **model,
            "HILUM_DATABASE_URL": self.database_url,
            "HILUM_BROKER_URL": broker_url,
            "HILUM_S3__ENDPOINT_URL": s3.endpoint_url,
            "HILUM_S3__ACCESS_KEY_ID": s3.access_key_id,
            "HILUM_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
        }
