"""Campaigns over HTTP: who may do what, what is refused, and what is never shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from support.tiny_film import film

from hilum.campaigns import steps
from hilum.db import instances, jobs, models, workers
from hilum.db.claims import Scored
from hilum.db.instances import NewInstance
from hilum.db.tables import jobs as jobs_table

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any


class Api:
    """Requests with keys of several scopes, and a worker that scores what is queued."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.admin = gateway.headers(scopes=["read", "admin"])
        self.reader = gateway.headers(scopes=["read"])
        with gateway.database.write() as connection:
            self.model_id = models.register(connection, **gateway.package.manifest.registration())

    def post(self, path: str, body: Any = None, *, status: int = 200, **headers: Any) -> Any:
        answer = self.gateway.client.post(path, json=body, headers=headers or self.admin)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, *, status: int = 200) -> Any:
        answer = self.gateway.client.get(path, headers=self.reader)
        assert answer.status_code == status, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    def enter(self, count: int) -> None:
        seen = [
            NewInstance(
                sop_instance_uid=f"1.2.{n}",
                series_instance_uid="1.3",
                study_instance_uid="1.4",
                content_sha256=bytes([n]) * 32,
                uri=f"s3://archive/secret-{n}.dcm",
                etag=None,
                source="archive",
                rows=48,
                columns=40,
            )
            for n in range(count)
        ]
        with self.gateway.database.write() as connection:
            instances.record(connection, tenant="north", seen=seen)

    def serve(self) -> None:
        with self.gateway.database.write() as connection:
            workers.beat(
                connection,
                "wk_1",
                model_id=self.model_id,
                queues=["stat", "routine", "bulk"],
                processes=1,
                alive_s=60,
            )

    def work(self, campaign_id: str) -> None:
        database = self.gateway.database
        while (found := steps.step(database, campaign_id)) and found.status == "running":
            with database.read() as connection:
                ids = [*connection.execute(select(jobs_table.c.id)).scalars()]
            for job_id in ids:
                with database.write() as connection:
                    claim = jobs.claim(
                        connection, job_id, lease_s=60, max_unreported=9, model_id=self.model_id
                    )
                assert claim is not None
                ended = []
                for image in claim.pending:
                    n = int(image.uri.rpartition("-")[2].removesuffix(".dcm"))
                    result = self.gateway.result(
                        film(n),
                        sop_instance_uid=f"1.2.{n}",
                        content_sha256=bytes([n]) * 32,
                        pipeline=found.pipeline,
                    )
                    ended.append(Scored(image_id=image.image_id, result=result))
                with database.write() as connection:
                    jobs.record(connection, claim, ended, lease_s=60)


@pytest.fixture
def api(gateway: Gateway) -> Api:
    return Api(gateway)


def test_a_campaign_from_plan_to_rollback(api: Api) -> None:
    api.enter(3)
    wish = {"model": api.gateway.package.digest, "name": "night"}
    plan = api.post("/v1/campaigns/plan", wish)
    assert (plan["found"], plan["to_score"], plan["workers"]) == (3, 3, 0)
    assert "secret" not in str(plan), "addresses are not for clients of the API"
    made = api.post("/v1/campaigns", wish, status=201)
    path = f"/v1/campaigns/{made['id']}"
    assert made["status"] == "created"
    assert api.post("/v1/campaigns", wish, status=409)["code"] == "campaign.exists"
    while not api.get(path)["frozen"]:
        steps.step(api.gateway.database, made["id"])
    assert api.post(f"{path}/run")["waits_for"] == "workers of its model"
    assert api.post(f"{path}/pause")["status"] == "paused"
    assert api.post(f"{path}/promotion", {}, status=409)["code"] == "campaign.state"
    assert api.post(f"{path}/resume")["status"] == "running"
    api.work(made["id"])
    ended = api.get(path)
    assert (ended["status"], ended["counts"]["scored"]) == ("completed", 3)
    assert api.get("/v1/campaigns")["campaigns"][0] == ended
    assert api.post(f"{path}/promotion", {}, status=409)["code"] == "model.unserved"
    api.serve()
    assert api.get("/v1/serving")["model"] is None
    assert api.post(f"{path}/promotion", {})["model"] == api.gateway.package.digest
    assert api.post("/v1/serving/rollback")["model"] is None
    assert api.post("/v1/serving/rollback", status=409)["code"] == "serving.nothing_before"
    report = api.get(f"{path}/report")
    assert (report["pairs"], report["without_a_result_before"]) == (0, 3)
    assert api.get(f"{path}/report?format=html").startswith("<!doctype html>")
    assert api.post(f"{path}/cancel", status=409)["code"] == "campaign.state"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/campaigns",
        "/v1/campaigns/cp_1/run",
        "/v1/campaigns/cp_1/cancel",
        "/v1/campaigns/cp_1/promotion",
        "/v1/serving/rollback",
    ],
)
def test_a_reader_changes_nothing(api: Api, path: str) -> None:
    assert api.post(path, {}, status=403, **api.reader)["code"] == "auth.forbidden"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "sha256:none"}, 404, "model.unknown"),
        ({"model": None}, 404, "model.unknown"),
        ({"selection": {"sites": ["Nowhere"]}}, 422, "campaign.unknown_filter"),
        ({"selection": {"since": "2024-02-01", "until": "2024-01-01"}}, 422, "request.invalid"),
        ({"selection": {"codes": ["policy.not_chest"]}}, 422, "campaign.invalid"),
        ({"modes": ["everything"]}, 422, "request.invalid"),
        (
            {"window": {"start": "22:00", "end": "06:00", "time_zone": "Mars/Olympus"}},
            422,
            "campaign.window_invalid",
        ),
        (
            {"window": {"start": "22:00", "end": "06:00", "time_zone": "UTC", "days": []}},
            422,
            "campaign.window_invalid",
        ),
    ],
)
def test_what_is_refused(api: Api, change: Any, status: int, code: str) -> None:
    wish = {"model": api.gateway.package.digest, **change}
    assert api.post("/v1/campaigns", wish, status=status)["code"] == code


def test_another_tenant_sees_nothing(api: Api, make_gateway: Callable[..., Gateway]) -> None:
    api.enter(1)
    made = api.post("/v1/campaigns", {"model": api.gateway.package.digest}, status=201)
    other = api.gateway.headers(tenant="south", scopes=["read", "admin"])
    client = api.gateway.client
    assert client.get("/v1/campaigns", headers=other).json() == {"campaigns": []}
    for answer in (
        client.get(f"/v1/campaigns/{made['id']}", headers=other),
        client.post(f"/v1/campaigns/{made['id']}/cancel", headers=other),
        client.get(f"/v1/campaigns/{made['id']}/report", headers=other),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "campaign.unknown")
