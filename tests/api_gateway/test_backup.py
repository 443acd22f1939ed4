"""Backup and restore as docs/operate/backup.md says: dump, wipe, restore, the same answers."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from click.testing import CliRunner
from fastapi.testclient import TestClient
from sqlalchemy import make_url
from support import postgres
from support.tiny_film import film

from api_gateway.app import create_app
from hilum.commands.audit import audit
from hilum.commands.db import db
from hilum.errors import NotDicomError

FILM = film(1, rows=300, columns=200)


def _answers(client: TestClient, secret: str, study: str, images: list[str]) -> list[Any]:
    paths = [f"/v1/studies/{study}", "/v1/models"]
    image = f"/v1/studies/{study}/images/{images[0]}"
    paths += [image, f"{image}/cam?label=Effusion&format=json"]
    found = []
    for path in paths:
        answer = client.get(path, headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, (path, answer.text)
        found.append(answer.json())
    return found


def _back_up(url: str, target: Path) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with (
            closing(sqlite3.connect(str(parsed.database))) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
        return
    command = [postgres.program("pg_dump"), "--format=custom", "--file", str(target), url]
    subprocess.run(command, check=True, capture_output=True)


def _wipe(url: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        for file in Path(str(parsed.database)).parent.glob("hilum.db*"):
            file.unlink()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def _restore(url: str, source: Path) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with (
            closing(sqlite3.connect(source)) as copy,
            closing(sqlite3.connect(str(parsed.database))) as target,
        ):
            copy.backup(target)
        return
    command = [postgres.program("pg_restore"), "--no-owner", "--clean", "--if-exists"]
    subprocess.run([*command, "--dbname", url, str(source)], check=True, capture_output=True)


def test_dump_wipe_restore_the_same_answers(
    make_gateway: Callable[..., Any], database_url: str, tmp_path: Path, monkeypatch: Any
) -> None:
    gateway = make_gateway(database_url)
    study = gateway.study(images=2)
    images = gateway.finish(
        study, lambda n: gateway.result(FILM) if n == 0 else NotDicomError("not a film")
    )
    waiting = gateway.study(images=3)
    before = _answers(gateway.client, gateway.secret, study, images)
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    chain = CliRunner().invoke(audit, ["verify"])
    assert chain.exit_code == 0

    dump = tmp_path / "backup"
    _back_up(database_url, dump)
    gateway.database.dispose()
    _wipe(database_url)
    assert CliRunner().invoke(db, ["check"]).exit_code == 1  # nothing is there
    _restore(database_url, dump)

    assert CliRunner().invoke(db, ["check"]).exit_code == 0
    assert CliRunner().invoke(audit, ["verify"]).output == chain.output
    with TestClient(create_app(gateway.settings)) as client:
        assert _answers(client, gateway.secret, study, images) == before
        again = client.get(
            f"/v1/studies/{waiting}", headers={"Authorization": f"Bearer {gateway.secret}"}
        )
        assert again.json()["status"] == "queued"  # its task is published anew by a sweeper
