"""Deploying: how fast the chart renders, how fast a worker is ready, how large the images are.

``python -m benchmarks.deploy --json`` measures rendering, and a worker of this environment.
``--image hilum/worker:TAG`` starts the worker from the image instead, read-only and without
capabilities (needs Docker), and reports the sizes of the images given.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import helm_python
import yaml

from benchmarks.report import Line, machine
from hilum.db import migrate
from hilum.embedded.process import Child
from hilum.embedded.valkey import Valkey
from worker import ready

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy/helm/hilum"
RENDER_S: Final = 30.0
READY_S: Final = 10.0
PACKAGES_MB: Final = 400.0


def render() -> Line:
    """Every scenario of the chart, one after the other."""
    given = [yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("ci/*.yaml"))]
    start = time.perf_counter()
    with helm_python.Chart.load(str(CHART)) as chart:
        for values in given:
            chart.render(values, name="bench", namespace="bench")
    seconds = time.perf_counter() - start
    return _limit("render_scenarios", f"{len(given)} scenarios", seconds, RENDER_S, "s")


def worker_cold_start(image: str | None, *, runs: int) -> Line:
    """From the start of a worker with the demonstration package until every process is ready."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = Path(name)
        folder.chmod(0o777)
        broker = Valkey(folder / "valkey")
        ends.callback(broker.stop)
        url = f"sqlite:///{folder / 'db' / 'hilum.db'}"
        (folder / "db").mkdir(mode=0o777)
        migrate.upgrade(url)
        for path in (folder / "db", *(folder / "db").iterdir()):
            path.chmod(0o777)
        settings = {"HILUM_DATABASE_URL": url, "HILUM_BROKER_URL": broker.url}
        start = _from_image(image, folder, settings) if image else _here(folder, settings)
        taken = sorted(next(start) for _ in range(runs))
    case = image or "this environment"
    return _limit("worker_cold_start", case, taken[len(taken) // 2], READY_S, "s")


def packages(image: str) -> Line:
    """The site-packages of an image."""
    code = (
        "import glob, subprocess;"
        "folder = glob.glob('/opt/hilum/venv/lib/python3*/site-packages')[0];"
        "print(subprocess.run(['du', '-sm', folder], capture_output=True, text=True).stdout)"
    )
    told = _docker("run", "--rm", "--network=none", "--entrypoint", "python", image, "-c", code)
    return _limit("image_site_packages", image, float(told.split()[0]), PACKAGES_MB, "MB")


def _limit(claim: str, case: str, value: float, limit: float, unit: str) -> Line:
    return Line(
        claim=claim,
        case=case,
        value=value,
        peer="limit",
        peer_value=limit,
        ratio=limit / value,
        target=1.0,
        unit=unit,
    )


def _here(folder: Path, settings: dict[str, str]) -> Iterator[float]:
    for n in range(1000):
        port = _free_port()
        environment = {
            **os.environ,
            **settings,
            "HILUM_MODEL_URI": str(ROOT / "models/demo"),
            "HILUM_CACHE_DIR": str(folder / "cache"),
            "HILUM_WORKER__METRICS_ADDRESS": f"127.0.0.1:{port}",
        }
        start = time.perf_counter()
        command = [sys.executable, "-m", "hilum", "worker"]
        child = Child("worker", command, log=folder / f"{n}.log", env=environment)
        child.wait_until(partial(_is_ready, port), timeout_s=300)
        seconds = time.perf_counter() - start
        child.stop(timeout_s=60)
        yield seconds


def _from_image(image: str, folder: Path, settings: dict[str, str]) -> Iterator[float]:
    while True:
        port, name = _free_port(), f"bench-{secrets.token_hex(4)}"
        environment = {**settings, "HILUM_WORKER__METRICS_ADDRESS": f"127.0.0.1:{port}"}
        start = time.perf_counter()
        with _container(name, image, folder, environment):
            while not _is_ready(port):
                if time.perf_counter() - start > 300:
                    raise SystemExit(_docker("logs", name))
                time.sleep(0.1)
            yield time.perf_counter() - start


@contextmanager
def _container(name: str, image: str, folder: Path, settings: dict[str, str]) -> Iterator[None]:
    options = [part for item in settings.items() for part in ("--env", "=".join(item))]
    options += ["--network=host", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp:mode=1777"]
    options += ["--tmpfs=/var/cache/hilum:uid=10001,gid=10001", "--volume", f"{folder}:{folder}"]
    _docker("run", "--detach", "--name", name, *options, image, "worker")
    try:
        yield
    finally:
        _docker("stop", "--time", "60", name)
        _docker("rm", "--force", name)


def _is_ready(port: int) -> bool:
    try:
        return ready.engines(port) >= 1
    except OSError:
        return False


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--image", action="append", default=[], help="hilum/worker:TAG; repeatable")
    arguments = parser.parse_args()
    lines = [render()]
    worker = next((image for image in arguments.image if "worker" in image), None)
    lines.append(worker_cold_start(worker, runs=arguments.runs))
    lines += [packages(image) for image in arguments.image]
    if not arguments.json:
        print(machine())
    for line in lines:
        print(line.json() if arguments.json else line.text())


if __name__ == "__main__":
    main()
