"""What a study's page costs, and what it says while the study is scored again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
from sqlalchemy import Engine, event, text

from hilum.db import models, studies
from hilum.embedded.valkey import Valkey
from hilum.queue import Queue, route

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any


@contextmanager
def _statements() -> Iterator[list[str]]:
    """What is sent to any database, but for the marks of transactions."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _scored(gateway: Gateway, images: int) -> str:
    study = gateway.study(images=images)
    from support.tiny_film import film

    one = gateway.result(film(1))
    gateway.finish(
        study,
        lambda n: type(one)(**{**vars(one), "sop_instance_uid": f"1.2.3.{n}"}),
    )
    return study


@pytest.mark.parametrize("images", [1, 100])
def test_a_study_takes_a_handful_of_statements(
    make_gateway: Callable[..., Gateway],
    database_url: str,
    images: int,
) -> None:
    """However many images it has; the manifests are read once in a process."""
    from hilum.settings import GatewaySettings

    settings = GatewaySettings(max_body_bytes=20_000, max_images_per_study=100)
    gateway = make_gateway(database_url, gateway=settings)
    study = _scored(gateway, images)
    models._known.clear()
    with _statements() as seen:
        first = gateway.get(f"/v1/studies/{study}").json()
    assert len(first["images"]["images"]) == images
    assert len(seen) <= 6, seen
    with _statements() as seen:
        assert gateway.get(f"/v1/studies/{study}").json() == first
    assert len(seen) <= 5, seen
    with _statements() as seen:
        assert gateway.get(f"/v1/studies/{study}/images?limit=1000").json() == first["images"]
    assert len(seen) <= 5, seen


def test_a_study_that_is_scored_again_says_what_it_said(gateway: Gateway) -> None:
    study = _scored(gateway, 2)
    before = gateway.get(f"/v1/studies/{study}").content
    ids = [image["id"] for image in gateway.get(f"/v1/studies/{study}/images").json()["images"]]
    with gateway.database.write() as connection:
        studies.add_job(connection, tenant="north", study_id=study, image_ids=ids, queue=Queue.BULK)
    assert gateway.get(f"/v1/studies/{study}").content == before
    shown = gateway.get(f"/v1/studies/{study}/images/{ids[0]}").json()
    assert shown["result"] is not None


def test_a_bound_job_is_published_on_a_queue_of_its_model(gateway: Gateway, valkey: Valkey) -> None:
    with gateway.database.write() as connection:
        model_id = models.register(connection, **gateway.package.manifest.registration())
    made = studies.submit(
        gateway.database, tenant="north", queue=Queue.STAT, uris=["s3://b/1"], model_id=model_id
    )
    publisher = gateway.client.app.state.services.publisher  # type: ignore[attr-defined]
    assert publisher.publish(made.job_id, made.route)
    with redis.from_url(valkey.url) as broker:
        assert broker.llen("stat") == 0
        (message,) = broker.lrange(route(Queue.STAT, gateway.package.digest), 0, -1)
    assert made.job_id in message.decode()
    with gateway.database.read() as connection:
        row = connection.execute(text("SELECT published_at, bound_published_at FROM jobs")).one()
    assert row.published_at is None
    assert row.bound_published_at is not None


@pytest.mark.parametrize(
    ("schema", "said"),
    [(("0999", "0003"), "ok"), (("0999", "0999"), "0999 or newer"), (("0002", "0002"), "not mig")],
)
def test_readiness_follows_the_schema(gateway: Gateway, schema: tuple[str, str], said: str) -> None:
    revision, oldest = schema
    with gateway.database.write() as connection:
        connection.execute(
            text("UPDATE hilum_schema SET version_num = :revision, oldest_code = :oldest"),
            {"revision": revision, "oldest": oldest},
        )
    ready = gateway.client.get("/readyz")
    assert ready.status_code == (200 if said == "ok" else 503)
    assert said in ready.json()["checks"]["database"]
