"""What real processes say, at DEBUG: nothing of patients, and of each job and request who it is."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from pydicom import dcmread
from support.tiny_film import film

from hilum.db import keys
from hilum.db.keys import Scope
from hilum.embedded.process import accepts, free_ports
from hilum.ids import new_id
from hilum.queue import Queue

if TYPE_CHECKING:
    from .conftest import System
else:
    System = Any

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),  # it says nothing
]


def _environment(system: System) -> dict[str, str]:
    secret = system.s3.secret_access_key
    assert secret is not None
    return {
        **os.environ,
        "HILUM_DATABASE_URL": system.url,
        "HILUM_BROKER_URL": system.broker.url,
        "HILUM_S3__ENDPOINT_URL": str(system.s3.endpoint_url),
        "HILUM_S3__ACCESS_KEY_ID": str(system.s3.access_key_id),
        "HILUM_S3__SECRET_ACCESS_KEY": secret.get_secret_value(),
        "HILUM_LOG_LEVEL": "DEBUG",
    }


@contextmanager
def _gateway(system: System, log: Path) -> Iterator[str]:
    """A real gateway's address; its stderr goes into ``log``."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "hilum", "gateway", "--port", str(port)]
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=_environment(system), stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            deadline = time.monotonic() + 60
            while not accepts(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def _ask(url: str, key: str, body: Any = None) -> tuple[int, bytes, str]:
    """Status, body and request id."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers["X-Request-Id"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["X-Request-Id"]


def test_no_process_names_a_patient_and_each_line_says_whose_it_is(
    system: System, tmp_path: Path
) -> None:
    canaries = ["CANARYNAME", "CANARYPID", "CANARYKEY", "CANARYACCESSION", "CANARYPATH"]
    data = film(
        1,
        PatientName="CANARYNAME^JANE",
        PatientID="CANARYPID",
        AccessionNumber="CANARYACCESSION",
        StudyDescription="CANARYNAME",
    )
    bad = film(2, PatientName="CANARYNAME^JOHN", ViewPosition="CANARYNAME")[:-900]
    uris = [system.put("in/CANARYKEY^JANE.dcm", data), system.put("in/CANARYKEY-2.dcm", bad)]
    uris.append(f"s3://{system.bucket}/CANARYKEY/not-there.dcm")
    with system.database.write() as connection:
        key, secret = keys.create(connection, tenant="north", name="n", scopes=list(Scope))
    log = tmp_path / "gateway.stderr"
    with _gateway(system, log) as url:
        system.worker(
            HILUM_LOG_LEVEL="DEBUG",
            HILUM_PREPARED__MODE="on",
            HILUM_PREPARED__SECRET="s" * 40,
        )
        status, answer, _ = _ask(
            f"{url}/v1/studies", secret, {"images": [{"uri": uri} for uri in uris]}
        )
        assert status == 202, answer
        study = json.loads(answer)["id"]
        while True:
            status, answer, _ = _ask(f"{url}/v1/studies/{study}", secret)
            state = json.loads(answer)
            if state["status"] == "completed":
                break
            assert state["status"] in {"queued", "running"}, system.logs()
            time.sleep(0.1)
        images = state["images"]["images"]
        assert [image["status"] for image in images] == ["scored", "refused", "refused"]
        (cam, *_) = images[0]["result"]["cam"].values()
        assert _ask(url + cam, secret)[0] == 200
        assert _ask(f"{url}/v1/studies/CANARYPATH", secret)[0] == 404
        assert _ask(f"{url}/CANARYPATH?x=CANARYPATH", secret)[0] == 404
        assert _ask(f"{url}/v1/studies", "hk_CANARYPATH", {})[0] == 401
        assert _ask(f"{url}/v1/studies", secret, {"CANARYPATH": 1})[0] == 422
    system.workers[-1].stop()
    gateway_lines = [json.loads(line) for line in log.read_text().splitlines()]
    worker_lines = [json.loads(line) for line in system.logs().splitlines()]
    said = log.read_text() + system.logs()
    header = dcmread(io.BytesIO(data))
    uids = [header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID]
    passwords = [secret, _environment(system)["HILUM_S3__SECRET_ACCESS_KEY"], system.broker.url]
    for hidden in (*canaries, *uids, "s3://", system.bucket, *passwords, "AWS4-HMAC", "Signature="):
        assert hidden not in said, hidden
    for line in gateway_lines + worker_lines:
        assert {"time", "level", "logger", "event"} <= set(line)
        assert str(line["time"]).endswith("+00:00")

    access = [line for line in gateway_lines if line["event"] == "request"]
    assert access
    for line in access:
        assert {"method", "route", "status", "seconds", "request"} <= set(line)
        if line["status"] in {200, 202}:
            assert (line["tenant"], line["key"]) == ("north", key.id)
            assert line["study"] == study
            assert line["job"].startswith("jb_")
    assert {line["route"] for line in access} >= {"/v1/studies", "/v1/studies/{study_id}"}
    jobs = [
        line
        for line in worker_lines
        if line["event"].startswith(("job.", "image.", "prepared.", "lease."))
    ]
    assert {"job.taken", "job.batch", "job.completed", "image.not_scored"} <= {
        line["event"] for line in jobs
    }
    for line in jobs:
        assert (line["study"], line["job"]) == (study, access[0]["job"])
    others = [line for line in worker_lines if line["event"] == "worker.process_ready"]
    assert all("job" not in line for line in others)


def test_messages_that_are_not_ours_are_dropped_and_the_worker_goes_on(system: System) -> None:
    worker = system.worker()
    task = {"lang": "py", "task": "os.system", "id": "i"}
    wrong = base64.b64encode(b'[["CANARY"], {}, {}]').decode()
    info = {"exchange": "", "routing_key": "routine"}
    properties = {"delivery_tag": "t", "delivery_info": info, "body_encoding": "base64"}
    whole = {"content-type": "application/json", "content-encoding": "utf-8"}
    strays: list[bytes] = [
        b"CANARY",
        b"\xff\xfe",
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        json.dumps({"body": wrong, "headers": task, "properties": properties}).encode(),
        json.dumps(
            {**whole, "body": wrong, "headers": {**task, "task": "hilum.score_job"}}
            | {"properties": properties}
        ).encode(),
    ]
    with redis.from_url(system.broker.url) as broker:
        for stray in strays:
            broker.lpush("routine", stray)
    system.until_said("broker.message_dropped")
    system.completed(system.submit([system.put("one.dcm", film(1))]))
    assert worker.running
    said = system.logs()
    assert said.count("broker.message_dropped") == len(strays)
    assert "CANARY" not in said
    assert said.count("worker.process_ready") == 1
    # A job that SQL does not know is nobody's.
    assert system.publisher.publish(new_id("jb"), Queue.STAT)
    system.completed(system.submit([system.put("two.dcm", film(2))]))
