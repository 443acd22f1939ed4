"""From the settings to a model that scores films. Only this module connects the parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from hilum.engines.loading import open_engine
from hilum.errors import PackageDigestError
from hilum.packages.load import Package, load
from hilum.pipeline.cache import open_cache
from hilum.pipeline.load import Loader
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import ExamineOptions
from hilum.pipeline.threads import LoadThreads
from hilum.sandbox import Decoders
from hilum.settings import Settings
from hilum.storage import ObjectStore, open_store

DECODE_TASKS: Final = "hilum.pipeline.tasks"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A loaded model with everything that scoring needs."""

    settings: Settings  # with what was measured to suit this model on this machine
    store: ObjectStore
    package: Package
    loader: Loader
    scorer: Scorer
    threads: LoadThreads  # each waits for the store, then for a decode process


def open_local_store(settings: Settings) -> ObjectStore:
    """The store, in which paths name local files too."""
    return open_store(settings.s3, settings.limits, allow_local=True)


def open_package(
    settings: Settings, location: str | None = None, *, store: ObjectStore | None = None
) -> Package:
    """The verified package at ``location``, by default that of ``HILUM_MODEL_URI``.

    Raises:
        PackageError: there is no package, or it cannot be trusted; a subclass says why.
        PackageDigestError: the package of ``HILUM_MODEL_URI`` is not that of HILUM_MODEL_DIGEST.
        HilumError: an error of the store, if the package is in one.
    """
    location = location or settings.model_uri
    package = load(
        location,
        store=store or open_store(settings.s3, settings.limits),
        cache_dir=settings.cache_dir,
    )
    wanted = settings.model_digest if location == settings.model_uri else None
    if wanted not in (None, package.digest):
        raise PackageDigestError(
            f"The package has the digest {package.digest}, not that of HILUM_MODEL_DIGEST.",
            next_step="Correct HILUM_MODEL_URI or HILUM_MODEL_DIGEST.",
        )
    return package


@contextmanager
def open_session(
    settings: Settings,
    *,
    decode_processes: int,
    reserved: int = 0,
    model: str | None = None,
    package: Package | None = None,
    store: ObjectStore | None = None,
    preview_side: int | None = None,
) -> Iterator[Session]:
    """Open everything that scoring needs, with an engine that has passed the golden check. The end
    of the block waits for images that are being loaded, then ends the decode processes.

    Args:
        decode_processes: how many images are loaded at a time.
        reserved: how many more, if they are urgent (:class:`hilum.pipeline.threads.LoadThreads`).
        model: location of the package; ``None``: ``HILUM_MODEL_URI``.
        package: a verified package, instead of ``model``.
        store: the store of the films; ``None``: S3 only.
        preview_side: keep each film for display, with at most this many pixels on its long side.

    Raises:
        ConfigurationError: the cache has no secret.
        DecodersUnavailableError: the machine does not allow a decode process to start.
        HilumError: see :func:`open_package` and :func:`hilum.engines.loading.open_engine`.
    """
    store = store or open_store(settings.s3, settings.limits)
    cache = open_cache(store, settings.prepared)
    with Decoders(
        decode_processes, settings.limits, tasks=DECODE_TASKS, reserved=reserved
    ) as decoders:
        decoders.warm()  # while the engine loads
        package = package or open_package(settings, model, store=store)
        engine = open_engine(package, settings)
        options = ExamineOptions.of(
            package.manifest,
            settings.limits,
            preview_side=preview_side,
            identity=settings.identity.store,
        )
        threads = LoadThreads(decode_processes, reserved=reserved)
        try:
            yield Session(
                settings=engine.settings,
                store=store,
                package=package,
                loader=Loader(options, store, cache, decoders),
                scorer=Scorer(package, engine),
                threads=threads,
            )
        finally:
            threads.shutdown()
