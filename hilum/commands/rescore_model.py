"""The model and the cache that ``hilum rescore`` works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hilum.campaigns import creating, planning
from hilum.campaigns.creating import Model, Wish
from hilum.campaigns.planning import Prepared
from hilum.db import models, serving
from hilum.db.connection import Database
from hilum.packages.load import check_signature
from hilum.pipeline.cache import open_cache
from hilum.session import open_package
from hilum.settings import Settings
from hilum.storage import ObjectStore


def resolve(database: Database, settings: Settings, wish: Wish) -> Model:
    """The model that the wish names: a registered digest, or a package, which is verified; by
    default the model in force for the tenant, else that of ``HILUM_MODEL_URI``.

    Raises:
        ModelUnknownError: no model with this digest is registered.
        PackageError: there is no package, or it cannot be trusted.
    """
    with database.read() as connection:
        in_force = serving.get(connection, wish.tenant) is not None
        if (wish.model or "").startswith("sha256:") or (wish.model is None and in_force):
            return creating.registered(connection, wish.tenant, wish.model)
    package = open_package(settings, wish.model)
    check_signature(package, settings)
    found = package.manifest
    with database.read() as connection:
        known = models.find(
            connection, digest=found.digest, preprocess_digest=found.preprocess.digest
        )
    return Model(id=creating.NOT_REGISTERED if known is None else known, manifest=found)


def cache_of(
    settings: Settings, store: ObjectStore, model: Model
) -> Callable[[Iterable[str]], Prepared] | None:
    """How to look films up in the prepared-image cache; ``None``: it is off."""
    cache = open_cache(store, settings.prepared)
    return None if cache is None else planning.look_up_in(cache, model.manifest.preprocess)
