"""A real, tiny model package for the tests below here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import tiny_package

from hilum.packages.load import Package, verify
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed package; not to be changed: see ``copy_of_tiny``."""
    folder = tmp_path_factory.mktemp("tiny") / "package"
    tiny_package.build(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Package:
    """The same, verified."""
    return verify(tiny_folder)


@pytest.fixture
def copy_of_tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def local_store() -> ObjectStore:
    """Local files only; nobody answers at its S3 endpoint."""
    nobody = S3Settings(endpoint_url="http://127.0.0.1:9", access_key_id="x", secret_access_key="y")
    return open_store(nobody, Limits(), allow_local=True)
