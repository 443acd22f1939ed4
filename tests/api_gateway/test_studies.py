"""Registering studies and following them; every way it can go wrong."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import func, select

from api_gateway import problems
from hilum import logs
from hilum.db.keys import Scope
from hilum.db.tables import jobs, studies
from hilum.embedded.valkey import Valkey
from hilum.errors import NotChestError
from hilum.settings import GatewaySettings
from tools import openapi

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any

URI = "s3://bucket/one.dcm"


def _is_problem(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, problems.MEDIA_TYPE)
    body = answer.json()
    assert body["code"] == code
    assert body["type"] == f"urn:hilum:error:{code}"
    assert body["status"] == status
    assert body["next_step"]


def _count(gateway: Gateway, table: Any) -> int:
    with gateway.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_a_study_is_registered_and_its_job_published(
    make_gateway: Callable[..., Gateway], database_url: str, valkey: Valkey
) -> None:
    gateway = make_gateway(database_url)
    answer = gateway.post({"priority": "stat", "images": [{"uri": URI}]})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"] == made["status_url"] == f"/v1/studies/{made['id']}"
    state = gateway.get(made["status_url"]).json()
    assert (state["status"], state["priority"]) == ("queued", "stat")
    assert state["counts"] == {"pending": 1, "scored": 0, "refused": 0, "failed": 0}
    assert [image["status"] for image in state["images"]["images"]] == ["pending"]
    # The message in the broker names the job and nothing else.
    with redis.from_url(valkey.url) as broker:
        (message,) = broker.lrange("stat", 0, -1)
    with gateway.database.read() as connection:
        job = connection.execute(select(jobs)).one()
    assert job.id in message.decode()
    assert job.published_at is not None
    for hidden in ("bucket", made["id"], "north"):
        assert hidden not in message.decode()


def test_a_study_may_come_before_its_objects(gateway: Gateway) -> None:
    assert gateway.post({"images": [{"uri": URI}], "object_wait_s": 600}).status_code == 202
    with gateway.database.read() as connection:
        job = connection.execute(select(jobs)).one()
    assert (job.objects_due_at - job.created_at).total_seconds() == 600
    for wrong in (-1, 10**9, "soon"):
        refused = gateway.post({"images": [{"uri": URI}], "object_wait_s": wrong})
        assert refused.json()["code"] == "request.invalid"


def test_pages_follow_each_other(gateway: Gateway) -> None:
    study = gateway.study(images=7)
    url: str | None = f"/v1/studies/{study}/images?limit=3"
    seen: list[int] = []
    while url is not None:
        page = gateway.get(url).json()
        seen += [image["position"] for image in page["images"]]
        url = page["next"]
    assert seen == list(range(7))


def test_errors_of_images_are_shown(gateway: Gateway) -> None:
    study = gateway.study(images=2)
    ids = gateway.finish(study, lambda _n: NotChestError("Body part is LEG; expected CHEST."))
    state = gateway.get(f"/v1/studies/{study}").json()
    assert state["status"] == "completed"
    assert state["counts"]["refused"] == 2
    image = gateway.get(f"/v1/studies/{study}/images/{ids[0]}").json()
    assert image["result"] is None
    assert image["error"]["code"] == "policy.not_chest"
    assert image["error"]["next_step"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "request.invalid"),
        ({"images": []}, "request.invalid"),
        ({"images": [{"uri": URI}], "colour": "red"}, "request.invalid"),
        ({"images": [{"uri": 7}]}, "request.invalid"),
        ({"images": [{"uri": URI}], "priority": "yesterday"}, "request.invalid"),
        ({"images": [{"uri": URI}, {"uri": URI}]}, "request.invalid"),
        ({"images": [{"uri": f"s3://b/{n}"} for n in range(21)]}, "request.invalid"),
        ({"images": [{"uri": "file:///etc/passwd"}]}, "storage.invalid_uri"),
        ({"images": [{"uri": "/etc/passwd"}]}, "storage.invalid_uri"),
        ({"images": [{"uri": "s3://bucket"}]}, "storage.invalid_uri"),
        ({"images": [{"uri": "s3:///key"}]}, "storage.invalid_uri"),
        ([], "request.invalid"),
        ("text", "request.invalid"),
        (None, "request.invalid"),
    ],
)
def test_malformed_requests(gateway: Gateway, body: Any, code: str) -> None:
    answer = gateway.post(body)
    _is_problem(answer, 422, code)
    assert "yesterday" not in answer.text
    assert "passwd" not in answer.text
    assert _count(gateway, studies) == 0


def test_fields_are_named_by_pointer(gateway: Gateway) -> None:
    answer = gateway.post({"images": [{"uri": URI}, {"url": URI}]})
    pointers = {field["pointer"] for field in answer.json()["errors"]}
    assert pointers == {"/body/images/1/uri", "/body/images/1/url"}


def test_only_allowed_places(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(gateway=GatewaySettings(allowed_uri_prefixes=("s3://pacs/in/",)))
    assert gateway.post({"images": [{"uri": "s3://pacs/in/1.dcm"}]}).status_code == 202
    for uri in ("s3://pacs/inside.dcm", "s3://pacs-evil/in/1.dcm", "S3://pacs/in/1.dcm"):
        _is_problem(gateway.post({"images": [{"uri": uri}]}), 422, "storage.invalid_uri")


def test_large_bodies_are_refused_declared_or_not(gateway: Gateway) -> None:
    big = json.dumps({"images": [{"uri": "s3://b/" + "k" * 1000} for _ in range(30)]}).encode()
    headers = {"Authorization": f"Bearer {gateway.secret}", "Content-Type": "application/json"}
    declared = gateway.client.post("/v1/studies", content=big, headers=headers)
    _is_problem(declared, 413, "request.body_too_large")
    parts = (big[n : n + 1000] for n in range(0, len(big), 1000))
    chunked = gateway.client.post("/v1/studies", content=parts, headers=headers)
    assert "content-length" not in chunked.request.headers
    _is_problem(chunked, 413, "request.body_too_large")


def test_keys(gateway: Gateway) -> None:
    study = gateway.study()
    url = f"/v1/studies/{study}"
    missing = gateway.client.get(url)
    _is_problem(missing, 401, "auth.unauthenticated")
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    wrong = gateway.client.get(url, headers={"Authorization": "Bearer hk_wrong"})
    _is_problem(wrong, 401, "auth.unauthenticated")
    reader = gateway.headers(scopes=[Scope.READ])
    assert gateway.client.get(url, headers=reader).status_code == 200
    body = {"images": [{"uri": URI}]}
    _is_problem(
        gateway.client.post("/v1/studies", json=body, headers=reader), 403, "auth.forbidden"
    )
    other = {"X-API-Key": gateway.secret}
    assert gateway.client.get(url, headers=other).status_code == 200


def test_urgent_studies_need_a_scope(gateway: Gateway) -> None:
    body = {"images": [{"uri": URI}]}
    urgent = {**body, "priority": "stat"}
    plain = gateway.headers(scopes=["submit"])
    assert gateway.client.post("/v1/studies", json=body, headers=plain).status_code == 202
    refused = gateway.client.post("/v1/studies", json=urgent, headers=plain)
    _is_problem(refused, 403, "auth.forbidden")
    assert "scope stat." in refused.json()["detail"]
    for scopes in (["studies:write"], ["submit", "stat"]):
        headers = gateway.headers(scopes=scopes)
        assert gateway.client.post("/v1/studies", json=urgent, headers=headers).status_code == 202


def test_another_tenants_study_does_not_exist(gateway: Gateway) -> None:
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: NotChestError("No."))
    south = gateway.headers(tenant="south")
    for path in ("", "/images", f"/images/{image}", f"/images/{image}/cam?label=Effusion"):
        answer = gateway.client.get(f"/v1/studies/{study}{path}", headers=south)
        _is_problem(answer, 404, "study.unknown")


def test_unknown_things(gateway: Gateway) -> None:
    _is_problem(gateway.get("/v1/studies/st_0"), 404, "study.unknown")
    _is_problem(gateway.get(f"/v1/studies/{gateway.study()}/images/im_0"), 404, "image.unknown")
    _is_problem(gateway.get("/v2/studies"), 404, "request.no_such_route")
    headers = {"Authorization": f"Bearer {gateway.secret}"}
    deleted = gateway.client.delete("/v1/studies", headers=headers)
    _is_problem(deleted, 405, "request.no_such_route")


def test_an_idempotency_key_makes_one_study(
    make_gateway: Callable[..., Gateway], database_url: str
) -> None:
    gateway = make_gateway(database_url)
    body = {"images": [{"uri": URI}]}
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(gateway.post, body, **{"Idempotency-Key": "k1"}) for _ in range(6)]
        answers = [one.result() for one in sent]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None", *["true"] * 5]
    assert _count(gateway, studies) == 1
    other = gateway.post({"images": [{"uri": URI + "x"}]}, **{"Idempotency-Key": "k1"})
    _is_problem(other, 422, "request.idempotency_key_reused")
    # Keys are a tenant's own.
    headers = {**gateway.headers(tenant="south"), "Idempotency-Key": "k1"}
    south = gateway.client.post("/v1/studies", json=body, headers=headers)
    assert south.json()["id"] != answers[0].json()["id"]


def test_a_broker_that_is_away_costs_no_study(gateway: Gateway, valkey: Valkey) -> None:
    valkey.stop()
    answer = gateway.post({"images": [{"uri": URI}]})
    assert answer.status_code == 202
    with gateway.database.read() as connection:
        assert connection.execute(select(jobs.c.published_at)).scalar_one() is None
    ready = gateway.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "degraded",
        "checks": {"database": "ok", "broker": "away"},
    }


def test_health_and_readiness(gateway: Gateway) -> None:
    assert gateway.client.get("/healthz").json()["status"] == "ok"
    ready = gateway.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


def test_a_database_that_is_away(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway()
    away = gateway.settings.model_copy(
        update={"database_url": "postgresql://nobody@127.0.0.1:9/none"}
    )
    from fastapi.testclient import TestClient

    from api_gateway.app import create_app

    with TestClient(create_app(away)) as client:
        headers = {"Authorization": "Bearer hk_any"}
        answer = client.get("/v1/models", headers=headers)
        _is_problem(answer, 503, "db.unavailable")
        assert answer.headers["Retry-After"]
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"] == "db.unavailable"


def test_the_log_names_routes_and_nobody(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    study = gateway.study()
    answer = gateway.get(f"/v1/studies/{study}?token=hunter2")
    ours = [r for r in caplog.records if r.name.startswith("api_gateway")]
    fields = ours[-1].fields  # type: ignore[attr-defined]
    assert (fields["route"], fields["status"]) == ("/v1/studies/{study_id}", 200)
    assert len(answer.headers["X-Request-Id"]) == 16
    for secret in (gateway.secret, gateway.bucket, "hunter2"):
        assert all(secret not in str(vars(record)) for record in ours)


def test_a_mistake_of_ours_says_nothing_of_the_request(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("hunter2 in the text")

    monkeypatch.setattr("hilum.db.studies.get", broken)
    answer = gateway.get("/v1/studies/st_1")
    _is_problem(answer, 500, "internal.unexpected")
    assert "hunter2" not in answer.text
    # The request id of the answer leads to the line that says where it happened.
    assert answer.headers["X-Request-Id"] in answer.json()["detail"]
    (record,) = [r for r in caplog.records if r.getMessage() == "request.failed"]
    line = json.loads(logs._JsonLine().format(record))
    assert (line["exception"], line["at"].partition(":")[0]) == (
        "RuntimeError",
        "api_gateway.studies",
    )
    assert "hunter2" not in str(line)


def test_nothing_malformed_is_a_mistake_of_ours(gateway: Gateway) -> None:
    rng = random.Random(5)
    scraps: list[Any] = [None, True, -1, 1e308, "", "\0", "s3://", "é" * 50, [], {}, [[]]]

    def value(depth: int = 0) -> Any:
        if depth > 3 or rng.random() < 0.4:
            return rng.choice(scraps)
        if rng.random() < 0.5:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        names = ["images", "uri", "priority", "object_wait_s", "x", ""]
        return {rng.choice(names): value(depth + 1) for _ in range(rng.randrange(4))}

    for _ in range(150):
        answer = gateway.post(value(), **{"Idempotency-Key": rng.choice(["a", "ü".encode().hex()])})
        assert answer.status_code in {202, 422}, answer.text
    headers = {"Authorization": f"Bearer {gateway.secret}", "Content-Type": "application/json"}
    for _ in range(50):
        raw = rng.randbytes(rng.randrange(60))
        answer = gateway.client.post("/v1/studies", content=raw, headers=headers)
        assert answer.status_code in {400, 422}, answer.text
    for path in ("/v1/studies/%00", "/v1/studies/..%2f..", "/v1/studies/" + "a" * 5000):
        assert gateway.get(path).status_code in {404, 422}


def test_the_committed_openapi_is_current() -> None:
    committed = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert committed.read_text() == openapi.document(), "run `make openapi`"


def test_the_documentation_needs_no_internet(gateway: Gateway) -> None:
    page = gateway.client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    scripts = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert scripts
    for script in scripts:
        assert gateway.client.get(script).status_code == 200


def test_a_broker_url_with_a_password_is_not_logged(
    make_gateway: Callable[..., Gateway], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = make_gateway(broker_url=SecretStr("redis://:hunter2@127.0.0.1:9/0"))
    assert gateway.post({"images": [{"uri": URI}]}).status_code == 202
    assert "job.not_published" in caplog.text
    assert "hunter2" not in caplog.text
