"""`hilum doctor` on real services, and on each of its faults: the code and the fix are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from support import tiny_package

from hilum.commands import doctor_services
from hilum.commands.doctor import doctor
from hilum.db import migrate
from hilum.embedded.valkey import Valkey
from hilum.settings import Limits, S3Settings, Settings
from hilum.storage import open_store


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "package"
    tiny_package.build(folder)
    return folder


@pytest.fixture
def environment(
    package: Path,
    valkey: Valkey,
    s3: S3Settings,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Variables of a whole system whose database is not migrated yet; returns its URL."""
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    open_store(s3, Limits()).write(f"s3://{bucket}/in/film.dcm", b"film")
    assert s3.secret_access_key
    values = {
        "DATABASE_URL": url,
        "BROKER_URL": valkey.url,
        "MODEL_URI": str(package),
        "CACHE_DIR": str(tmp_path / "cache"),
        "S3__ENDPOINT_URL": str(s3.endpoint_url),
        "S3__ACCESS_KEY_ID": str(s3.access_key_id),
        "S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
        "GATEWAY__ALLOWED_URI_PREFIXES": json.dumps([f"s3://{bucket}/in"]),
    }
    for name, value in values.items():
        monkeypatch.setenv(f"HILUM_{name}", value)
    return url


def examine(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(doctor, ["--json", *arguments])
    return done.exit_code, json.loads(done.output)


def test_a_whole_system(environment: str, bucket: str) -> None:
    migrate.upgrade(environment)
    code, report = examine("--film", f"s3://{bucket}/in/film.dcm")
    assert code == 0, report
    assert report["database"] == {"kind": "sqlite", "schema": report["database"]["schema"]}
    assert report["broker"]["maxmemory_policy"] == "noeviction"
    assert report["store"]["film_bytes"] == 4
    assert "may write in 1 of the places" in report["store"]["warning"]  # the test's key may
    assert abs(report["clock"]["broker_s"]) < 5
    assert report["model"]["signature"] == "not required"
    text = CliRunner().invoke(doctor, []).output
    assert "Warning: The keys may write" in text


@pytest.mark.parametrize(
    ("name", "value", "part", "code"),
    [
        ("HILUM_BROKER_URL", "redis://127.0.0.1:1/0", "broker", "queue.unavailable"),
        ("HILUM_DATABASE_URL", "postgresql://127.0.0.1:1/x", "database", "db.unavailable"),
        ("HILUM_S3__SECRET_ACCESS_KEY", "wrong", "store", "storage.credentials_rejected"),
        ("HILUM_WORKR__PROCESSES", "2", "settings", "config.invalid"),
        ("HILUM_PREPARED__MODE", "on", "cache", "config.invalid"),
        ("HILUM_CACHE_DIR", "/proc/nowhere", "disk", "machine.disk_full"),
        ("HILUM_MODEL_DIGEST", "sha256:" + "0" * 64, "engine", "package.digest_mismatch"),
        ("HILUM_TRUSTED_SIGNERS", "/nowhere", "engine", "config.invalid"),
    ],
)
def test_each_fault_is_named_with_its_fix(
    environment: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str, code: str
) -> None:
    migrate.upgrade(environment)
    monkeypatch.setenv(name, value)
    exit_code, report = examine()
    assert exit_code == 2
    assert report[part]["error"]["code"] == code
    assert report[part]["error"]["next_step"]


def test_a_database_that_is_not_migrated(environment: str) -> None:
    code, report = examine()
    assert code == 2
    assert report["database"]["error"]["code"] == "db.schema_outdated"
    code, report = examine("--skip", "database")
    assert code == 0
    assert "database" not in report


def test_a_broker_that_evicts(environment: str, valkey: Valkey) -> None:
    import redis

    migrate.upgrade(environment)
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            code, report = examine("--skip", "engine")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert code == 2
    assert report["broker"]["error"]["code"] == "queue.evicts"
    assert report["engine"] == {}


def test_nothing_is_configured(package: Path) -> None:
    """As on a developer's machine: only the machine itself is checked."""
    code, report = examine("--model", str(package))
    assert code == 0
    assert report["broker"] == {"checked": "no", "why": "not configured"}
    assert report["store"]["checked"] == "no"


def test_a_clock_that_is_off(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor_services.datetime

    class Slow(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            from datetime import timedelta

            return real.now(tz) - timedelta(seconds=60)

    config = Settings(database_url=postgres_url)
    assert abs(doctor_services.check_clock(config, None)["database_s"]) < 5
    monkeypatch.setattr(doctor_services, "datetime", Slow)
    with pytest.raises(doctor_services.ClockSkewedError, match=r"\+60"):
        doctor_services.check_clock(config, None)


def test_a_broker_behind_tls_or_sentinel_that_is_away() -> None:
    tls = "rediss://127.0.0.1:1/0?ssl_cert_reqs=CERT_REQUIRED"
    for url in (tls, "sentinel://127.0.0.1:1;sentinel://127.0.0.1:2"):
        config = Settings(broker_url=SecretStr(url))
        with pytest.raises(doctor_services.BrokerUnavailableError):
            doctor_services.check_broker(config, None)
