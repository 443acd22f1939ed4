"""Real services for the tests, each started once, when a test first asks for it."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from support.sharing import make_once

from hilum.embedded.seaweed import Seaweed
from hilum.embedded.valkey import Valkey
from hilum.settings import S3Settings

if TYPE_CHECKING:
    from support.postgres import Postgres


def pytest_configure() -> None:
    """Hear Ctrl-C even where the suite runs in the background of a script.

    A shell without job control starts ``make test &`` with SIGINT ignored; every child would
    inherit that, and the tests that interrupt one would wait for ever.

    No GPU, unless the caller names one: on a machine that has one, too, the suite shows what holds
    without (`make gpu-check` is for the rest).
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings, and no way to anybody's real cloud account."""
    for name in list(os.environ):
        if name.startswith(("HILUM_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="session")
def services() -> Iterator[Path]:
    """The folder of all services' data, open to the user PostgreSQL runs as.

    Not one of pytest's: each run of pytest shuts those of all others to other users again.
    """
    with TemporaryDirectory(prefix="hilum-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def valkey(services: Path) -> Iterator[Valkey]:
    """A broker: ``.url``, ``.stop()``, ``.start()``."""
    server = Valkey(services / "valkey")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(services: Path) -> Iterator[S3Settings]:
    """Settings of a running S3 server that checks signatures."""
    server = Seaweed(services / "seaweed")
    server.wait()
    yield server.settings
    server.stop()


@pytest.fixture
def bucket() -> str:
    """The name of a bucket nobody else uses; the server makes it with the first write."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def postgres(services: Path) -> Iterator[Postgres]:
    """A running PostgreSQL."""
    with warnings.catch_warnings():
        # platformdirs complains of a missing XDG_RUNTIME_DIR, which containers do not have.
        warnings.simplefilter("ignore", RuntimeWarning)
        from support.postgres import Postgres

        server = Postgres(services / "postgres")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """Its maintenance database."""
    return postgres.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty database of each kind; not migrated."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hilum.db'}"
        return
    import psycopg
    from sqlalchemy import make_url

    server = request.getfixturevalue("postgres_url")
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:  # a test may have restarted it
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def backbone_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Gives the exported graph of a model of ``support.backbones``, which one process exports."""

    def exported(name: str) -> bytes:
        def make(folder: Path) -> None:
            from support import backbones  # torch, which few tests need

            (folder / "model.onnx").write_bytes(backbones.graph(name))

        return (make_once(tmp_path_factory, f"graph-{name}", make) / "model.onnx").read_bytes()

    return exported


# The last release whose code knows no schema but its own.
_RELEASE_BEFORE = "d962ab05601e7e4e6604b32534298496fcb5782a"


@pytest.fixture(scope="session")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before, to be put first on ``PYTHONPATH``."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    archive = subprocess.run(
        [git, "archive", _RELEASE_BEFORE, "hilum", "worker", "api_gateway"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip("the history of git does not reach back to the release before")
    folder = tmp_path_factory.mktemp("release-before")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
