"""The images, built and run as in production: read-only, no capabilities, uid 10001.

The whole system from them: films in, results out, SIGTERM in the middle, nothing lost. What stays
outside of the images is real, too: Valkey, PostgreSQL and an S3 server.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from sqlalchemy import make_url
from support.docker import Docker

from hilum.embedded.valkey import Valkey
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store

ROOT = Path(__file__).parents[2]
FILMS = sorted((ROOT / "models/samples").glob("*.dcm"))
IMAGES = 60  # of the study that SIGTERM interrupts
MOST_MB = 400  # of site-packages

pytestmark = pytest.mark.timeout(3000)


@pytest.fixture(scope="module", params=["gateway", "worker"])
def image(request: pytest.FixtureRequest, docker: Docker) -> str:
    return docker.build(request.param)


def test_what_is_in_an_image(docker: Docker, image: str) -> None:
    look = (
        "import glob, json, os, subprocess, sys;"
        "packages = glob.glob('/opt/hilum/venv/lib/python3*/site-packages')[0];"
        "told = subprocess.run(['du', '-sm', packages], capture_output=True);"
        "size = int(told.stdout.split()[0]);"
        "sbom = json.load(open('/opt/hilum/sbom.cdx.json'));"
        "names = [c['name'] for c in sbom['components']];"
        "print(json.dumps({'uid': os.getuid(), 'mb': size, 'names': names,"
        " 'licences': open('/opt/hilum/LICENCES.txt').read()}))"
    )
    found = json.loads(docker.run(image, "-c", look, options=["--entrypoint", "python"]))
    print(f"\n{image}: site-packages {found['mb']} MB")
    assert found["uid"] == 10001
    assert found["mb"] <= MOST_MB
    assert "torch" not in found["names"]
    assert ("onnxruntime" in found["names"]) == ("worker" in image)
    assert "not declared" not in found["licences"]
    assert not re.search(r"(?<![LA-Z])GPL", found["licences"])  # the LGPL of psycopg is no obstacle
    config: Any = docker.inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == "of-the-tests"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Entrypoint"] == ["hilum"]


def _film(n: int) -> bytes:
    """One of the sample films, as an instance of its own."""
    data = pydicom.dcmread(FILMS[n % len(FILMS)])
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = (
        f"1.2.826.0.1.3680043.8.498.{n}"
    )
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until(reached: Callable[[], bool], *, within_s: float, logs: Callable[[], str]) -> float:
    start = time.monotonic()
    while not reached():
        assert time.monotonic() - start < within_s, logs()[-4000:]
        time.sleep(0.2)
    return time.monotonic() - start


@dataclass
class System:
    """Gateway and workers from the images."""

    docker: Docker
    gateway: str
    worker: str
    options: list[str]
    url: str
    metrics: int
    uris: list[str]
    key: str = ""
    workers: list[str] = field(default_factory=list)

    def start_worker(self) -> float:
        """Returns the seconds until it was ready."""
        name = f"worker-{secrets.token_hex(4)}"
        port = _free_port()
        address = ["--env", f"HILUM_WORKER__METRICS_ADDRESS=127.0.0.1:{port}"]
        start = time.monotonic()
        self.docker.start_container(name, self.worker, "worker", options=[*self.options, *address])
        self.workers.append(name)
        ready = ("python", "-m", "worker.ready", str(port), "1")
        _until(
            lambda: self.docker.execute(name, *ready)[0] == 0,
            within_s=180,
            logs=lambda: self.docker.logs(name),
        )
        return time.monotonic() - start

    def ask(self, path: str, body: Any = None) -> Any:
        """An answer of the gateway as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def submit(self, uris: Sequence[str]) -> str:
        made = self.ask("/v1/studies", {"images": [{"uri": uri} for uri in uris]})
        return str(made["id"])

    def counts(self, study: str) -> dict[str, int]:
        found: dict[str, int] = self.ask(f"/v1/studies/{study}")["counts"]
        return {status: number for status, number in found.items() if number}

    def completed(self, study: str) -> bool:
        return bool(self.ask(f"/v1/studies/{study}")["status"] == "completed")


@pytest.fixture(scope="module")
def system(docker: Docker, valkey: Valkey, s3: S3Settings, postgres_url: str) -> System:
    import psycopg

    gateway, worker = docker.build("gateway"), docker.build("worker")
    name = f"system_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    folder = make_url(postgres_url).query.get("host", "")
    store = open_store(s3, Limits())
    bucket = f"films-{secrets.token_hex(4)}"
    uris = [f"s3://{bucket}/{n}.dcm" for n in range(len(FILMS) + IMAGES)]
    for n, uri in enumerate(uris):
        store.write(uri, _film(n))
    assert s3.secret_access_key
    settings = {
        "HILUM_DATABASE_URL": database,
        "HILUM_BROKER_URL": valkey.url,
        "HILUM_MODEL_URI": "models/demo",
        "HILUM_S3__ENDPOINT_URL": str(s3.endpoint_url),
        "HILUM_S3__ACCESS_KEY_ID": str(s3.access_key_id),
        "HILUM_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
        "HILUM_GATEWAY__ALLOWED_URI_PREFIXES": json.dumps([f"s3://{bucket}"]),
        "HILUM_WORKER__BATCH_SIZE": "2",  # so that SIGTERM comes between two batches
        "HILUM_WORKER__SWEEP_INTERVAL_S": "1",
    }
    options = [part for item in settings.items() for part in ("--env", "=".join(item))]
    if folder:  # PostgreSQL of the tests listens on a socket in this folder, which is its own
        Path(str(folder)).chmod(0o711)
        options += ["--volume", f"{folder}:{folder}"]
    waits = docker.run(gateway, "db", "upgrade", options=options)
    assert waits.strip()
    assert "ready" in docker.run(gateway, "db", "wait", "--timeout-s", "10", options=options)
    port, metrics = _free_port(), _free_port()
    docker.start_container(
        "gateway-of-the-test",
        gateway,
        "gateway",
        "--port",
        str(port),
        options=[*options, "--env", f"HILUM_GATEWAY__METRICS_ADDRESS=127.0.0.1:{metrics}"],
    )
    found = System(docker, gateway, worker, options, f"http://127.0.0.1:{port}", metrics, uris)

    def ready() -> bool:
        try:
            return bool(found.ask("/readyz")["status"] == "ok")
        except OSError:
            return False

    seconds = _until(ready, within_s=120, logs=lambda: docker.logs("gateway-of-the-test"))
    print(f"\ngateway ready after {seconds:.1f} s")
    made = docker.run(
        gateway, "keys", "create", "--tenant", "north", "--name", "t", options=options
    )
    found.key = next(word for word in made.split() if word.startswith("hk_"))
    return found


def test_films_in_results_out_and_sigterm_in_the_middle(system: System) -> None:
    seconds = system.start_worker()
    print(f"\nworker ready after {seconds:.1f} s")
    first = system.submit(system.uris[: len(FILMS)])
    logs = lambda: system.docker.logs(system.workers[-1])  # noqa: E731
    _until(lambda: system.completed(first), within_s=120, logs=logs)
    assert system.counts(first) == {"scored": len(FILMS)}

    second = system.submit(system.uris[len(FILMS) :])

    def scored() -> int:
        return system.counts(second).get("scored", 0)

    _until(lambda: scored() > 0, within_s=120, logs=logs)
    assert system.docker.end(system.workers[-1], grace_s=180) == 0
    left = scored()
    print(f"\nSIGTERM after {left} of {IMAGES} images")
    assert 0 < left < IMAGES, "SIGTERM came too late to be in the middle"
    with urllib.request.urlopen(f"http://127.0.0.1:{system.metrics}/metrics", timeout=10) as answer:
        assert "hilum_queue_depth" in answer.read().decode()
    system.start_worker()
    _until(lambda: system.completed(second), within_s=240, logs=logs)
    assert system.counts(second) == {"scored": IMAGES}


def test_the_doctor_of_the_images(system: System) -> None:
    told = system.docker.run(system.worker, "doctor", "--json", options=system.options)
    report = json.loads(told)
    assert report["engine"]["name"].startswith("onnxruntime")
    assert report["database"]["kind"] == "postgresql"
    assert report["broker"]["maxmemory_policy"] == "noeviction"


def test_the_root_is_read_only(system: System) -> None:
    name = system.workers[-1]
    code, told = system.docker.execute(name, "python", "-c", "open('/opt/hilum/x', 'w')")
    assert code == 1
    assert "Read-only file system" in told
