"""Start a server as a child process with its own password, and stop it by its handle."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hilum.errors import PermanentError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ServiceFailedError(PermanentError):
    """A service did not start, or ended unexpectedly."""

    code = "embedded.service_failed"
    next_step = "Read the log named above."


class Child:
    """One running server.

    It has its own process group. The kernel ends it when this process ends, for any reason.

    Args:
        log: file to which its output is appended.
        env: its complete environment, or ``None`` for the environment of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            os.umask(0o077)  # what a server stores is about patients
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent ended before the line above
                os._exit(1)

        with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            self.process = subprocess.Popen(  # noqa: S603 -- commands are ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- no thread of ours holds a lock here
            )

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until ``ready()`` is true.

        Raises:
            ServiceFailedError: the process ended, or was not ready in time and has been stopped.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                raise ServiceFailedError(
                    f"{self.name} ended with status {self.process.returncode}; {self._tail()}"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise ServiceFailedError(
                    f"{self.name} was not ready after {timeout_s:g} s; {self._tail()}"
                )
            time.sleep(0.05)

    def stop(self, *, timeout_s: float = 15) -> int:
        """Send SIGTERM, after ``timeout_s`` SIGKILL to its process group. Returns the status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """Send SIGKILL to its process group, which looks like a crash."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return f"the end of {self.log}:\n" + "\n".join(f"    {line}" for line in lines) + "\n"


def secret(path: Path) -> str:
    """Read the secret in ``path``. On first use, create it with mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        value = secrets.token_urlsafe(24)
        file.write(value)
    return value


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def accepts(port: int) -> bool:
    """Whether a server listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
