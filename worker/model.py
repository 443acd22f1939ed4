"""The model a worker serves: fetched, verified and registered before any process is started."""

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
    """A verified package on this machine, and its row in SQL. Handed to each pool process."""

    folder: str
    digest: str  # what the folder held when it was registered
    model_id: int


def verify_and_register(settings: Settings, database: Database) -> tuple[Manifest, ServedModel]:
    """The model of ``HILUM_MODEL_URI``, local from now on.

    Pool processes read the folder, never the address: one that starts while the store is away
    finds its model all the same. The engine is loaded there, not here.

    Raises:
        PackageError: there is no package, or not one that can be trusted; a subclass says why.
        StorageUnavailableError, CredentialsRejectedError, AccessDeniedError: of the store.
        DatabaseUnavailableError: the database does not answer.
    """
    package = open_package(settings)
    check_signature(package, settings)  # before it is known to anyone
    with database.write() as connection:
        model_id = models.register(connection, package.manifest)
    folder = str(Path(package.folder).resolve())
    return package.manifest, ServedModel(folder=folder, digest=package.digest, model_id=model_id)
