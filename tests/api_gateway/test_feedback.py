"""Readers agree, disagree and correct."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import select
from support.tiny_film import film

from hilum.commands.feedback import feedback as command
from hilum.db import audit, feedback, instances
from hilum.db.instances import NewInstance
from hilum.db.keys import Scope
from hilum.db.results import NewResult
from hilum.db.tables import audit as audit_table
from hilum.db.tables import instances as instances_table
from hilum.errors import NotChestError
from hilum.packages import labels
from trainer import manifest as training_table
from trainer.datasets.cli import manifest

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any


def _scored(gateway: Gateway, images: int = 1) -> tuple[str, list[str]]:
    study = gateway.study(images=images)
    return study, gateway.finish(study, lambda n: gateway.result(film(n + 1)))


def _instance(result: NewResult) -> NewInstance:
    same = ("sop_instance_uid", "series_instance_uid", "study_instance_uid", "content_sha256")
    shown = {name: getattr(result, name) for name in (*same, "rows", "columns")}
    return NewInstance(**shown, uri="s3://b/k", etag=None, source=None)


def _give(gateway: Gateway, study: str, image: str, body: Any, **headers: str) -> Any:
    usual = {"Authorization": f"Bearer {gateway.secret}"}
    path = f"/v1/studies/{study}/images/{image}/feedback"
    return gateway.client.post(path, json=body, headers=headers or usual)


def test_feedback_is_given_shown_and_read(
    make_gateway: Callable[..., Gateway], database_url: str
) -> None:
    gateway = make_gateway(database_url)
    result = gateway.result(film(1))
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: result)
    opinions = [
        {"label": "Effusion", "verdict": "agree"},  # which the model found
        {"label": "Nodule/Mass", "verdict": "disagree"},  # which it did not
        {"label": "Cardiomegaly", "verdict": "correct", "present": False},
    ]
    digest = gateway.get(f"/v1/studies/{study}").json()["images"]["images"][0]["result"]["model"]
    body = {"opinions": opinions, "reader": "r-17", "model": digest["digest"]}
    given = _give(gateway, study, image, body)
    assert given.status_code == 201, given.text
    shown = gateway.get(f"/v1/studies/{study}/feedback").json()
    said = {
        row["label"]: (row["verdict"], row["found"], row["present"]) for row in shown["feedback"]
    }
    assert said == {
        "Effusion": ("agree", True, True),
        "Nodule/Mass": ("disagree", False, True),
        "Cardiomegaly": ("correct", False, False),
    }
    assert [row["id"] for row in shown["feedback"]] == given.json()["ids"]
    assert shown["feedback"][0]["reader"] == "r-17"
    # The same reader changes an opinion; another one does not replace it.
    again = {"opinions": [{"label": "Effusion", "verdict": "disagree"}], "reader": "r-17"}
    (newest,) = _give(gateway, study, image, again).json()["ids"]
    for reader in ("r-18", None):
        _give(gateway, study, image, {**again, "reader": reader, "opinions": opinions[:1]})
    url: str | None = f"/v1/studies/{study}/feedback?limit=2"
    rows: list[dict[str, Any]] = []
    while url is not None:
        page = gateway.get(url).json()
        rows += page["feedback"]
        url = page["next"]
    effusion = [row for row in rows if row["label"] == "Effusion"]
    assert [(row["reader"], row["present"]) for row in effusion] == [
        ("r-17", False),
        ("r-18", True),
        (None, True),
    ]
    assert effusion[0]["id"] == newest
    # As campaigns read it: by the row of `instances`, if the film has one.
    with gateway.database.write() as connection:
        before = feedback.read(connection, tenant="north")
        instances.record(connection, tenant="north", seen=[_instance(result)])
        (instance_id,) = connection.execute(select(instances_table.c.id)).scalars()
    with gateway.database.read() as connection:
        read = feedback.read(connection, tenant="north", instance_ids=[instance_id])
        assert feedback.read(connection, tenant="south").size == 0
        assert feedback.read(connection, tenant="north", instance_ids=[10**9]).size == 0
        assert feedback.read(connection, tenant="north", label="Nodule/Mass").size == 1
        assert feedback.read(connection, tenant="north", model_id=10**6).size == 0
        by_film = feedback.readings(connection, tenant="north", instance_ids=[instance_id])
        audit.verify(connection)
        rows_of = select(audit_table).where(audit_table.c.action == "feedback.given")
        audited = connection.execute(rows_of.order_by(audit_table.c.id)).all()
    assert read.dtype == feedback.READING
    assert set(before["instance_id"]) == {-1}
    assert set(read["instance_id"]) == {instance_id}
    assert read.size == before.size == 5
    assert read["given_at"].dtype == np.dtype("<M8[us]")
    assert by_film == {instance_id: {"Effusion": True, "Nodule/Mass": True, "Cardiomegaly": False}}
    assert [row.object for row in audited] == [image] * 4
    assert audited[0].detail["rows"] == given.json()["ids"]
    assert audited[0].actor.startswith("key_")


def test_what_is_refused(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    study, (image, *_) = _scored(gateway, images=2)
    agree = {"label": "Effusion", "verdict": "agree"}
    for wrong in (
        {"opinions": []},
        {"opinions": [agree, agree]},
        {"opinions": [{**agree, "present": True}]},
        {"opinions": [{"label": "Effusion", "verdict": "correct"}]},
        {"opinions": [{**agree, "verdict": "maybe"}]},
        {"opinions": [{**agree, "label": "a\0b"}]},
        {"opinions": [agree], "reader": "Dr Jane Miller"},
        {"opinions": [agree], "reader": "Miller"},
        {"opinions": [agree], "name": "x"},
        {"opinions": [agree], "model": "latest"},
    ):
        answer = _give(gateway, study, image, wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid"), wrong
        assert "Miller" not in answer.text
    other = _give(gateway, study, image, {"opinions": [agree], "model": "sha256:" + "0" * 64})
    assert (other.status_code, other.json()["code"]) == (409, "feedback.result_replaced")
    label = _give(gateway, study, image, {"opinions": [{**agree, "label": "Cough"}]})
    assert (label.status_code, label.json()["code"]) == (422, "feedback.label_unknown")
    assert _give(gateway, study, "im_0", {"opinions": [agree]}).status_code == 404
    for tenant, scopes, status in (
        ("north", [Scope.READ, Scope.SUBMIT], 403),
        ("south", [Scope.FEEDBACK], 404),
    ):
        headers = gateway.headers(tenant, scopes=scopes)
        assert _give(gateway, study, image, {"opinions": [agree]}, **headers).status_code == status
    refused = gateway.study()
    (none,) = gateway.finish(refused, lambda _n: NotChestError("No."))
    answer = _give(gateway, refused, none, {"opinions": [agree]})
    assert (answer.status_code, answer.json()["code"]) == (409, "image.not_scored")
    assert gateway.get(f"/v1/studies/{study}/feedback").json() == {"feedback": [], "next": None}


def test_feedback_becomes_labels_of_training(
    make_gateway: Callable[..., Gateway],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = make_gateway(database_url)
    study, (first, second, third) = _scored(gateway, images=3)
    agree = {"label": "Effusion", "verdict": "agree"}
    for reader, verdict in (("r1", "agree"), ("r2", "disagree"), ("r1", "agree")):
        opinions = [{**agree, "verdict": verdict}]
        _give(gateway, study, first, {"opinions": opinions, "reader": reader})
    absent = [{"label": "Cardiomegaly", "verdict": "correct", "present": False}]
    _give(gateway, study, second, {"opinions": absent})
    _give(gateway, study, third, {"opinions": [agree]})
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    target = tmp_path / "labels.csv"
    schema = ["--schema", "chestxray14-v1", "--prefix", f"s3://{gateway.bucket}/"]
    done = CliRunner().invoke(command, ["labels", "--to", str(target), *schema])
    assert (done.exit_code, done.stderr) == (0, f"3 rows in {target}\n")
    with target.open() as file:
        one, two, _ = csv.DictReader(file)
    assert set(one) == {"file", *labels.CHESTXRAY14.labels}
    assert (one["file"], one["Effusion"], one["Cardiomegaly"]) == ("0.dcm", "0.5", "")
    assert (two["file"], two["Effusion"], two["Cardiomegaly"]) == ("1.dcm", "", "0")
    # What trains reads it as it is.
    for n in range(3):
        data = film(n + 1, PatientID=f"P{n}")
        gateway.store.write(f"s3://{gateway.bucket}/{n}.dcm", data)
    s3 = gateway.settings.s3
    monkeypatch.setenv("HILUM_S3__ENDPOINT_URL", str(s3.endpoint_url))
    monkeypatch.setenv("HILUM_S3__ACCESS_KEY_ID", str(s3.access_key_id))
    assert s3.secret_access_key is not None
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", s3.secret_access_key.get_secret_value())
    table = tmp_path / "films.csv"
    arguments = ["dicom", f"s3://{gateway.bucket}", str(target), *schema[:2], "--to", str(table)]
    made = CliRunner().invoke(manifest, arguments)
    assert made.exit_code == 0, (made.output, made.exception)
    effusion = labels.CHESTXRAY14.index("Effusion")
    records = training_table.read(table, labels.CHESTXRAY14)
    targets = [record.targets[effusion] for record in records]
    assert sorted(map(str, targets)) == ["0.5", "1.0", "nan"]
    export = tmp_path / "feedback.csv"
    for more, count in (([], 4), (["--all"], 5), (["--label", "Effusion"], 3)):
        CliRunner().invoke(command, ["export", "--to", str(export), *more])
        with export.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
    assert {row["study_id"] for row in rows} == {study}
    assert "1.2.826" not in export.read_text(), "no UID"
    nowhere = CliRunner().invoke(command, ["export", "--to", str(tmp_path / "no/such.csv")])
    assert "cannot be written" in str(nowhere.exception)
