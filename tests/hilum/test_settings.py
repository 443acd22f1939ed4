"""Settings: precedence, typed errors that do not print values, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilum import settings
from hilum.commands.settings import table
from hilum.errors import ConfigurationError

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current() -> None:
    assert (DOCS / "operate/configuration.md").read_text().endswith(table()), "run `make tables`"


def test_every_setting_says_what_it_does() -> None:
    assert [line for line in table().splitlines() if line.endswith("|  |")] == []


def test_environment_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "hilum.toml"
    file.write_text('model_uri = "s3://models/a"\n[worker]\nbatch_size = 3\nprocesses = 2\n')
    monkeypatch.setenv("HILUM_CONFIG_FILE", str(file))
    monkeypatch.setenv("HILUM_WORKER__BATCH_SIZE", "5")
    loaded = settings.load()
    assert loaded.model_uri == "s3://models/a"
    assert loaded.worker.batch_size == 5
    assert loaded.worker.processes == 2
    assert loaded.worker.lease_s == settings.WorkerSettings().lease_s


def test_a_wrong_value_is_named_but_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_WORKER__BATCH_SIZE", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert "HILUM_WORKER__BATCH_SIZE" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HILUM_CONFIG_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match="HILUM_CONFIG_FILE"):
        settings.load()


def test_time_limit_must_stay_below_visibility(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_WORKER__TASK_TIME_LIMIT_S", "1800")
    with pytest.raises(ConfigurationError, match="visibility_timeout_s"):
        settings.load()


def test_films_within_one_limit_are_within_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = settings.Limits()
    assert defaults.decode_bytes <= defaults.max_decode_bytes
    monkeypatch.setenv("HILUM_LIMITS__MAX_DECODE_BYTES", str(2**29))
    with pytest.raises(ConfigurationError, match=r"max_decode_bytes.*max_pixels"):
        settings.load()
    monkeypatch.setenv("HILUM_LIMITS__MAX_PIXELS", "8000000")
    assert settings.load().limits.max_decode_bytes == 2**29


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("HILUM_BROKER_URL", "redis://:hunter2@localhost:1/0")
    assert "hunter2" not in repr(settings.load())
