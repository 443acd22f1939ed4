"""Tests that need root, Docker or namespaces. ``make test-system`` runs them; there a skip fails,
except for what the kernel of this machine refuses, which is printed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.docker import Docker

REFUSED = "the kernel refuses"
_skipped: list[str] = []

if os.environ.get("SYSTEM_TESTS") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note every skip."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip that is not the kernel's fault fails."""
    for skip in _skipped:
        print(f"\nnot run: {skip}")
    if any(REFUSED not in skip for skip in _skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker daemon of this session's own, ended by its own process id."""
    daemon = Docker()
    refusal = daemon.start()
    if refusal:
        pytest.skip(f"{REFUSED} a Docker daemon: {refusal}")
    yield daemon
    daemon.stop()
