"""The model a worker serves, and the queues that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import tiny_package

from hilum.db import migrate, models
from hilum.db.connection import Database
from hilum.errors import PackageError, PackageUnsignedError
from hilum.packages.registered import manifest_of
from hilum.settings import Settings
from worker.app import create_app
from worker.model import verify_and_register


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """SQLite, migrated."""
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    migrate.upgrade(url)
    with Database(url) as database:
        yield database


def _settings(folder: Path, **changes: object) -> Settings:
    return Settings(model_uri=str(folder), cache_dir=folder.parent / "cache", **changes)  # type: ignore[arg-type]


def _registered(database: Database) -> list[str]:
    with database.read() as connection:
        return [model.digest for model in models.listing(connection)]


def test_a_worker_registers_its_model_once(database: Database, tmp_path: Path) -> None:
    built = tiny_package.build(tmp_path / "package")
    manifest, first = verify_and_register(_settings(tmp_path / "package"), database)
    _, second = verify_and_register(_settings(tmp_path / "package"), database)
    assert manifest == built
    assert first == second
    assert (first.digest, Path(first.folder)) == (built.digest, tmp_path / "package")
    with database.read() as connection:
        (model,) = models.listing(connection)
    assert (model.id, model.digest, manifest_of(model)) == (first.model_id, built.digest, built)


def test_what_cannot_be_trusted_is_not_registered(database: Database, tmp_path: Path) -> None:
    """Neither a damaged package, nor an unsigned one where signatures are asked for."""
    tiny_package.build(tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(PackageError):
        verify_and_register(_settings(tmp_path / "damaged"), database)
    tiny_package.build(tmp_path / "unsigned")
    signers = tmp_path / "signers"
    public = Ed25519PrivateKey.generate().public_key()
    key = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    signers.write_text(f"somebody@hospital.example {key}\n")
    with pytest.raises(PackageUnsignedError):
        verify_and_register(_settings(tmp_path / "unsigned", trusted_signers=signers), database)
    assert _registered(database) == []


def test_a_worker_reads_the_queues_of_its_model_too(database: Database, tmp_path: Path) -> None:
    """In the order of urgency; the jobs of other models lie in queues it does not know."""
    tiny_package.build(tmp_path / "package")
    settings = _settings(tmp_path / "package")
    manifest, served = verify_and_register(settings, database)
    own = manifest.digest.removeprefix("sha256:")[:16]
    expected = ["stat", f"stat.{own}", "routine", f"routine.{own}", "bulk", f"bulk.{own}"]
    assert list(create_app(settings, served).amqp.queues) == expected
    assert list(create_app(settings).amqp.queues) == ["stat", "routine", "bulk"]
