"""The real application on real services, and results in its database."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from support import tiny_package
from support.ready import ready

from api_gateway.app import create_app
from hilum.db import jobs, keys, migrate, models
from hilum.db.claims import NotScored, Scored
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.db.results import NewResult
from hilum.db.states import ItemStatus
from hilum.db.tables import FIRST_PIPELINE
from hilum.embedded.valkey import Valkey
from hilum.errors import HilumError
from hilum.finding import Finding
from hilum.packages.load import Package, verify
from hilum.settings import GatewaySettings, Limits, S3Settings, Settings
from hilum.storage import ObjectStore, open_store

UID = "1.2.826.0.1.3680043.8.498.99"


@dataclass
class Gateway:
    """The application and what a test needs beside it."""

    client: TestClient
    settings: Settings
    database: Database
    store: ObjectStore
    bucket: str
    package: Package
    secret: str

    def headers(
        self, tenant: str = "north", scopes: Sequence[str] = tuple(Scope)
    ) -> dict[str, str]:
        """Of a request with a new key."""
        with self.database.write() as connection:
            _, secret = keys.create(connection, tenant=tenant, name="t", scopes=scopes)
        return {"Authorization": f"Bearer {secret}"}

    def post(self, body: Any, **headers: str) -> Any:
        """``POST /v1/studies`` with the usual key."""
        return self.client.post(
            "/v1/studies", json=body, headers={"Authorization": f"Bearer {self.secret}", **headers}
        )

    def get(self, path: str, **headers: str) -> Any:
        """With the usual key."""
        return self.client.get(path, headers={"Authorization": f"Bearer {self.secret}", **headers})

    def study(self, images: int = 1) -> str:
        """A registered study's id."""
        references = [{"uri": f"s3://{self.bucket}/{n}.dcm"} for n in range(images)]
        answer = self.post({"images": references})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def finish(self, study_id: str, outcome: Callable[[int], NewResult | HilumError]) -> list[str]:
        """End every image of the study as ``outcome`` says; returns the image ids."""
        with self.database.write() as connection:
            job_id = connection.exec_driver_sql(
                f"SELECT id FROM jobs WHERE study_id = '{study_id}'"
            ).scalar_one()
            claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=5)
        assert claim is not None
        ended: list[Scored | NotScored] = []
        for n, image in enumerate(claim.pending):
            made = outcome(n)
            if isinstance(made, HilumError):
                refused = ItemStatus.REFUSED
                ended.append(NotScored(image_id=image.image_id, status=refused, error=made))
            else:
                ended.append(Scored(image_id=image.image_id, result=made))
        with self.database.write() as connection:
            jobs.record(connection, claim, ended, lease_s=60)
        return [image.image_id for image in claim.pending]

    def result(
        self, data: bytes, *, keep: Sequence[int] = tuple(range(6)), **fields: Any
    ) -> NewResult:
        """A result for the object ``data``: label 1 is found, its heat is in one corner."""
        with self.database.write() as connection:
            model_id = models.register(connection, **self.package.manifest.registration())
        examined = ready(self.package, data)
        cam = np.zeros((len(keep), 4, 4), dtype=np.float32)
        cam[:, 0, 3] = 2.0
        defaults: dict[str, Any] = {
            "sop_instance_uid": f"{UID}.{secrets.randbelow(10**9)}",
            "series_instance_uid": f"{UID}.1",
            "study_instance_uid": f"{UID}.2",
            "content_sha256": examined.content_sha256,
            "model_id": model_id,
            "pipeline": FIRST_PIPELINE,
            "rows": examined.header.rows,
            "columns": examined.header.columns,
            "raw": np.linspace(0, 1, 6, dtype=np.float32),
            "probability": np.array([0.001, 0.9, 0.2, 0.3, 0.4, 0.5], dtype=np.float32),
            "findings": (Finding(label="Effusion", probability=0.9, threshold=0.5),),
            "cam": cam,
            "cam_labels": tuple(keep),
            "engine": "onnxruntime-cpu",
            "flags": ("view_unknown",),
        }
        return NewResult(**{**defaults, **fields})


@pytest.fixture(scope="session")
def gateway_package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A tiny package."""
    folder = tmp_path_factory.mktemp("gateway") / "package"
    tiny_package.build(folder)
    return verify(folder)


@contextmanager
def _opened(url: str, package: Package, bucket: str, **settings: Any) -> Iterator[Gateway]:
    """A gateway on a database that is migrated here."""
    migrate.upgrade(url)
    limits = GatewaySettings(max_body_bytes=20_000, max_images_per_study=20)
    made = Settings(**{"database_url": url, "gateway": limits, **settings})
    client = TestClient(create_app(made), raise_server_exceptions=True)
    with Database(url) as database, client:
        with database.write() as connection:
            _, secret = keys.create(connection, tenant="north", name="main", scopes=list(Scope))
        yield Gateway(
            client=client,
            settings=made,
            database=database,
            store=open_store(made.s3, Limits()),
            bucket=bucket,
            package=package,
            secret=secret,
        )


@pytest.fixture
def make_gateway(
    s3: S3Settings, valkey: Valkey, bucket: str, gateway_package: Package, tmp_path: Path
) -> Iterator[Callable[..., Gateway]]:
    """Build a gateway; keyword arguments replace settings."""
    with ExitStack() as opened:

        def make(database_url: str | None = None, **changes: Any) -> Gateway:
            url = database_url or f"sqlite:///{tmp_path / 'hilum.db'}"
            settings = {"broker_url": SecretStr(valkey.url), "s3": s3, **changes}
            return opened.enter_context(_opened(url, gateway_package, bucket, **settings))

        yield make
    valkey.start()
    valkey.flush()


@pytest.fixture(scope="module")
def shared_gateway(
    s3: S3Settings,
    valkey: Valkey,
    gateway_package: Package,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """One for all tests of a module that harm nothing, with the usual settings, on SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('gateway') / 'hilum.db'}"
    bucket = f"test-{secrets.token_hex(6)}"
    settings: dict[str, Any] = {"broker_url": SecretStr(valkey.url), "s3": s3}
    with _opened(url, gateway_package, bucket, **settings) as gateway:
        yield gateway


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """With the usual settings, on SQLite."""
    return make_gateway()
