"""The model of a worker: fetched, verified and registered before any process starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hilum.db import models
from hilum.db.connection import Database
from hilum.packages.load import check_signature
from hilum.packages.manifest import Manifest
from hilum.session import open_package
from hilum.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A verified package on this machine, and its row in SQL. Passed to each pool process."""

    folder: str
    digest: str  # of the package in the folder when it was registered
    model_id: int


def verify_and_register(settings: Settings, database: Database) -> tuple[Manifest, ServedModel]:
    """Fetch, verify and register the model of ``HILUM_MODEL_URI``.

    Pool processes read the local folder, never the address, so that they can start while the store
    is unavailable. They load the engine.

    Raises:
        PackageError: there is no package, or it cannot be trusted; a subclass says why.
        StorageUnavailableError, CredentialsRejectedError, AccessDeniedError: of the store.
        DatabaseUnavailableError: the database does not answer.
    """
    package = open_package(settings)
    check_signature(package, settings)  # before anyone can see it
    with database.write() as connection:
        model_id = models.register(connection, **package.manifest.registration())
    folder = str(Path(package.folder).resolve())
    return package.manifest, ServedModel(folder=folder, digest=package.digest, model_id=model_id)
