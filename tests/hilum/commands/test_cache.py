"""``hilum cache``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.tiny_film import film

from hilum import dicom
from hilum.commands.cache import cache
from hilum.packages.load import verify
from hilum.pipeline.cache import PreparedCache
from hilum.pipeline.stages import Examination
from hilum.settings import Limits, PreparedSettings, S3Settings
from hilum.storage import open_store


def test_a_secret_is_new_each_time_and_long_enough() -> None:
    found = {CliRunner().invoke(cache, ["secret"]).output.strip() for _ in range(3)}
    assert len(found) == 3
    assert all(len(secret) >= 32 for secret in found)


def test_evict(
    s3: S3Settings, bucket: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.secret_access_key is not None
    monkeypatch.setenv("HILUM_S3__ENDPOINT_URL", str(s3.endpoint_url))
    monkeypatch.setenv("HILUM_S3__ACCESS_KEY_ID", str(s3.access_key_id))
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", s3.secret_access_key.get_secret_value())
    store = open_store(s3, Limits())
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1))
    config = PreparedSettings.model_validate({"mode": "on", "secret": "x" * 40})
    header = dicom.open_object(film(1), Limits()).header
    spec = verify(tiny_folder).manifest.preprocess
    for one in (spec, spec.model_copy(update={"size": 33})):
        place = PreparedCache(store, config).place(uri, one)
        assert place is not None
        facts = Examination(content_sha256=bytes(32), header=header)
        PreparedCache(store, config).keep(place, facts)

    def evicted(*arguments: str) -> str:
        done = CliRunner().invoke(cache, ["evict", *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    assert evicted(bucket, "--older-than", "1") == "0 entries removed.\n"
    assert evicted(f"s3://{bucket}/", "--model", str(tiny_folder)) == "1 entries removed.\n"
    assert evicted(bucket) == "1 entries removed.\n"
    assert store.read(uri) == film(1)
