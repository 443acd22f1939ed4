"""``hilum keys`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hilum.cli import main
from hilum.db import keys, migrate
from hilum.db.connection import Database
from hilum.db.keys import ApiKey


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database that the command finds by its setting."""
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    migrate.upgrade(url)
    monkeypatch.setenv("HILUM_DATABASE_URL", url)
    return url


def hilum_keys(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments])


def _found(url: str, secret: str) -> ApiKey | None:
    with Database(url) as database, database.read() as connection:
        return keys.find(connection, secret)


def test_a_key_is_shown_once_works_and_can_be_revoked(url: str) -> None:
    made = hilum_keys("create", "--tenant", "north", "--name", "pacs", "--scope", "studies:read")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    key = _found(url, secret)
    assert key is not None
    assert (key.tenant, key.name, set(key.scopes)) == ("north", "pacs", {keys.Scope.READ})

    listed = hilum_keys("list")
    assert listed.exit_code == 0
    assert key.id in listed.stdout
    assert "valid" in listed.stdout
    assert secret not in listed.stdout

    assert hilum_keys("revoke", key.id).exit_code == 0
    assert _found(url, secret) is None
    assert "revoked" in hilum_keys("list").stdout


@pytest.mark.usefixtures("url")
def test_an_unknown_scope_is_refused_with_the_list() -> None:
    answer = hilum_keys("create", "--tenant", "north", "--name", "pacs", "--scope", "all")
    assert answer.exit_code == 2
    assert "submit, stat, read, feedback, admin, studies:write, studies:read" in answer.stderr


def test_as_json(url: str) -> None:
    made = json.loads(hilum_keys("create", "--tenant", "north", "--name", "pacs", "--json").stdout)
    key = _found(url, made["secret"])
    assert key is not None
    assert key.id == made["id"]
    assert set(key.scopes) == set(keys.Scope) - {keys.Scope.ADMIN}, "when none is named"


def test_the_secret_is_not_in_the_database(url: str) -> None:
    secret = hilum_keys("create", "--tenant", "north", "--name", "pacs").stdout.strip()
    path = Path(url.removeprefix("sqlite:///"))
    stored = b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))
    assert b"north" in stored
    assert secret.encode() not in stored


@pytest.mark.usefixtures("url")
def test_an_unknown_key_cannot_be_revoked() -> None:
    answer = hilum_keys("revoke", "nobody")
    assert answer.exit_code == 2
    assert "There is no key nobody." in answer.stderr


def test_a_database_that_was_not_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    answer = hilum_keys("list")
    assert answer.exit_code == 2
    assert "hilum db upgrade" in answer.stderr
