"""``hilum gateway`` as a process: starts, answers, stops, and says why when it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hilum.db import migrate


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database, not migrated yet."""
    return f"sqlite:///{tmp_path / 'hilum.db'}"


@contextmanager
def _gateway(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "hilum", "gateway", *arguments]
    environment = {**os.environ, "HILUM_DATABASE_URL": url}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_told(url: str, stop: signal.Signals) -> None:
    migrate.upgrade(url)
    with _gateway(url, "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        with urllib.request.urlopen(line.split()[-1] + "/healthz", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in {0, 130, -stop}
    assert "Traceback" not in errors


def test_it_refuses_a_database_that_is_not_migrated(url: str) -> None:
    with _gateway(url, "--port", "0") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "hilum db upgrade" in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken(url: str) -> None:
    migrate.upgrade(url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _gateway(url, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert json.loads(errors.splitlines()[-1])["code"] == "config.invalid"
    assert str(port) in errors
