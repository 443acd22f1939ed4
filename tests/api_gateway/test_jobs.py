"""Jobs over HTTP: who may see and change which, one and many."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import redis
from sqlalchemy import select
from support.tiny_film import film

from hilum.db.keys import Scope
from hilum.db.tables import audit
from hilum.embedded.valkey import Valkey
from hilum.errors import NotChestError, ObjectMissingError

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any

OWN = (Scope.SUBMIT, Scope.READ)


def _job_of(gateway: Gateway, study: str) -> str:
    found = gateway.get("/v1/jobs").json()["jobs"]
    return str(next(job["id"] for job in found if job["study_id"] == study))


def _post(gateway: Gateway, path: str, body: Any = None, **headers: str) -> Any:
    usual = {"Authorization": f"Bearer {gateway.secret}"}
    return gateway.client.post(path, json=body, headers=headers or usual)


def test_a_job_is_seen_cancelled_and_retried(
    make_gateway: Callable[..., Gateway], database_url: str, valkey: Valkey
) -> None:
    gateway = make_gateway(database_url)
    study = gateway.study(images=2)
    job = _job_of(gateway, study)
    shown = gateway.get(f"/v1/jobs/{job}").json()
    assert (shown["status"], shown["cancelled"], shown["counts"]["pending"]) == ("queued", False, 2)
    assert shown["study_url"] == f"/v1/studies/{study}"
    assert shown["due_at"]
    assert _post(gateway, f"/v1/jobs/{job}/requeue").json()["action"] == "requeue"
    cancelled = _post(gateway, f"/v1/jobs/{job}/cancel")
    assert cancelled.json() == {"id": job, "action": "cancel", "new_job": None}
    assert _post(gateway, f"/v1/jobs/{job}/cancel").status_code == 200
    state = gateway.get(f"/v1/studies/{study}").json()
    assert (state["status"], state["error"]["code"]) == ("failed", "job.cancelled")
    conflict = _post(gateway, f"/v1/jobs/{job}/requeue")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "job.wrong_state")
    with redis.from_url(valkey.url) as broker:
        broker.flushall()
        new = _post(gateway, f"/v1/jobs/{job}/retry").json()["new_job"]
        (message,) = broker.lrange("routine", 0, -1)
    assert new in message.decode()
    assert gateway.get(f"/v1/studies/{study}").json()["status"] == "queued"
    again = _post(gateway, f"/v1/jobs/{job}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "job.nothing_to_retry")
    with gateway.database.read() as connection:
        rows = connection.execute(select(audit.c.action, audit.c.actor, audit.c.object)).all()
    done = [row for row in rows if row.action.startswith("job.")]
    assert [row.action for row in done] == ["job.requeued", "job.cancelled", "job.retried"]
    assert all(row.actor.startswith("key_") and row.object == job for row in done)


def test_refused_images_only_when_asked(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    study = gateway.study(images=2)
    errors = [NotChestError("No."), ObjectMissingError("No.")]
    gateway.finish(study, lambda n: errors[n])
    job = _job_of(gateway, study)
    first = _post(gateway, f"/v1/jobs/{job}/retry").json()["new_job"]
    assert gateway.get(f"/v1/jobs/{first}").json()["counts"]["pending"] == 1
    assert gateway.get(f"/v1/studies/{study}").json()["status"] == "completed"
    assert _post(gateway, f"/v1/jobs/{job}/retry").status_code == 409
    code = _post(gateway, f"/v1/jobs/{job}/retry", {"code": "policy.not_chest"})
    assert code.json()["new_job"]
    assert _post(gateway, f"/v1/jobs/{job}/retry", {"refused": True}).status_code == 409


def test_whose_jobs_a_key_may_see_and_change(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    job = _job_of(gateway, gateway.study())
    own = gateway.headers(scopes=OWN)
    south = gateway.headers("south", scopes=OWN)
    admin = gateway.headers("south", scopes=[*OWN, Scope.ADMIN])
    reader = gateway.headers(scopes=[Scope.READ])

    def ask(path: str, headers: dict[str, str]) -> Any:
        return gateway.client.get(path, headers=headers)

    assert ask(f"/v1/jobs/{job}", own).status_code == 200
    strangers = ((south, 404, "job.unknown"), (admin, 404, "job.unknown"))
    for headers, status, code in (*strangers, (reader, 403, "auth.forbidden")):
        for answer in (
            ask(f"/v1/jobs/{job}", headers),
            _post(gateway, f"/v1/jobs/{job}/cancel", **headers),
        ):
            assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ask("/v1/jobs", south).json()["jobs"] == ask("/v1/jobs", admin).json()["jobs"] == []
    assert ask("/v1/jobs?tenant=north", admin).status_code == 422, "there is no such filter"
    body = {"action": "cancel", "filter": {"priority": "routine"}}
    for headers in (own, south, reader):
        assert _post(gateway, "/v1/jobs/actions", body, **headers).status_code == 403
    assert _post(gateway, "/v1/jobs/actions", body, **admin).json()["matched"] == 0
    own_admin = gateway.headers(scopes=[*OWN, Scope.ADMIN])
    assert _post(gateway, "/v1/jobs/actions", body, **own_admin).json()["matched"] >= 1
    assert ask(f"/v1/jobs/{job}", own).json()["status"] == "queued", "it was a dry run"


def test_pages_of_jobs_follow_each_other(
    make_gateway: Callable[..., Gateway], database_url: str
) -> None:
    gateway = make_gateway(database_url)
    made = [gateway.study() for _ in range(5)]
    url: str | None = "/v1/jobs?limit=2&priority=routine&since=2020-01-01T00:00:00Z"
    seen: list[str] = []
    while url is not None:
        page = gateway.get(url).json()
        seen += [job["study_id"] for job in page["jobs"]]
        url = page["next"]
        assert url is None or "priority=routine" in url
    assert seen == made[::-1]


def test_many_jobs_are_counted_and_changed(
    make_gateway: Callable[..., Gateway],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from api_gateway import jobs as module

    gateway = make_gateway(database_url)
    made = [gateway.study() for _ in range(5)]
    order: dict[str, Any] = {"action": "cancel", "filter": {"priority": "routine"}}
    dry = _post(gateway, "/v1/jobs/actions", order).json()
    assert dry == {
        **{"action": "cancel", "dry_run": True, "matched": 5, "changed": 0, "next": None}
    }
    monkeypatch.setattr(module, "_STEPS", 2)
    monkeypatch.setattr(module, "STEP_SIZE", 1)
    order["dry_run"] = False
    changed, requests = 0, 0
    while True:
        answer = _post(gateway, "/v1/jobs/actions", order).json()
        changed, requests = changed + answer["changed"], requests + 1
        if answer["next"] is None:
            break
        order["after"] = answer["next"]
    assert (changed, requests) == (5, 3)
    states = {gateway.get(f"/v1/studies/{study}").json()["status"] for study in made}
    assert states == {"failed"}
    released = {"action": "retry", "filter": {"quarantined": True}, "dry_run": False}
    assert _post(gateway, "/v1/jobs/actions", released).json()["changed"] == 0
    again = {"action": "retry", "filter": {"code": "job.cancelled"}, "dry_run": False}
    assert _post(gateway, "/v1/jobs/actions", again).json()["changed"] == 2


def test_no_input_is_a_mistake_of_ours(
    make_gateway: Callable[..., Gateway], database_url: str
) -> None:
    """Every parameter, with what databases and encodings choke on: a 500 is raised here."""
    gateway = make_gateway(database_url)
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: gateway.result(film(1)))
    gateway.study()
    usual = {"Authorization": f"Bearer {gateway.secret}", "Content-Type": "application/json"}
    odd = ["\0", "a\0b", "\ud800", "\uffff", "é" * 70, "'; --", "\n", "", " ", "9" * 400]
    odd += ["-1", str(2**31), str(2**63), str(2**70), "1e999", "jb_" + "f" * 32]
    numbers = [2**63, 2**70, -(2**63), 1e308, None, True, [], {}]
    names = ["status", "code", "priority", "model", "campaign", "since", "until"]
    names += ["quarantined", "after", "limit"]

    def post(path: str, body: Any) -> int:
        sent = json.dumps(body).encode()
        return int(gateway.client.post(path, content=sent, headers=usual).status_code)

    for text in odd:
        encoded = quote(text.encode(errors="surrogatepass"), safe="")
        for name in names:
            assert gateway.get(f"/v1/jobs?{name}={encoded}").status_code in {200, 422}, name
        for path in (
            f"/v1/jobs/{encoded}",
            f"/v1/studies/{encoded}/feedback",
            f"/v1/studies/{study}/feedback?after={encoded}",
            f"/v1/studies/{study}/feedback?limit={encoded}",
        ):
            assert gateway.get(path).status_code in {200, 404, 422}, path
        for action in ("cancel", "retry", "requeue", encoded):
            assert post(f"/v1/jobs/{encoded}/{action}", {}) in {404, 422}, encoded
        assert post(f"/v1/studies/{study}/images/{encoded}/feedback", {}) in {404, 422}
    for value in (*odd, *numbers):
        for name in names:
            order = {"action": "cancel", "filter": {"code": "none", name: value}}
            assert post("/v1/jobs/actions", order) in {200, 422}, (name, value)
        assert post("/v1/jobs/actions", {**order, "after": value}) == 422 or value in odd
        for name in ("label", "verdict", "present", "reader", "model"):
            opinion = {"label": "Effusion", "verdict": "agree", name: value}
            for body in ({"opinions": [opinion]}, {"opinions": [], name: value}):
                path = f"/v1/studies/{study}/images/{image}/feedback"
                assert post(path, body) in {201, 422}, (name, value)
    for query in ("tenant=north", "since=1e999", f"since={2**70}", "until=9999-99-99", "limit=1e9"):
        assert gateway.get(f"/v1/jobs?{query}").status_code == 422, query
    extremes = "since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z"
    assert len(gateway.get(f"/v1/jobs?{extremes}").json()["jobs"]) == 2
