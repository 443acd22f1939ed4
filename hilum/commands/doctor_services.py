"""What ``hilum doctor`` checks beside the machine: settings, database, broker, store, clock, disk.

Each check returns its facts and raises a :class:`HilumError` with the fix. A check changes nothing:
the right to write is tried with a multipart upload that is aborted.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from hilum import settings
from hilum.db import probe, version
from hilum.db.connection import Database
from hilum.errors import (
    AccessDeniedError,
    BrokerEvictsError,
    BrokerUnavailableError,
    ClockSkewedError,
    ConfigurationError,
    DiskFullError,
    HilumError,
    MissingExtraError,
    ObjectMissingError,
    StoreRightsError,
)
from hilum.settings import Settings
from hilum.storage import ObjectStore, open_store

Facts = dict[str, Any]
Check = Callable[[Settings, str | None], Facts]

_TIMEOUT_S: Final = 5.0
_MOST_SKEW_S: Final = 5.0
_LEAST_FREE_BYTES: Final = 2**30
_NOT_SET: Final[Facts] = {"checked": "no", "why": "not configured"}


def check_settings(config: Settings, _film: str | None) -> Facts:
    """Every variable HILUM_* is one that hilum knows."""
    unknown = settings.unknown_variables()
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: hilum has no such setting, and ignores the variable.",
            next_step="Correct the name, or remove the variable. `hilum settings` lists all names.",
        )
    return {"engine": config.engine, "model_uri": config.model_uri}


def check_database(config: Settings, _film: str | None) -> Facts:
    """The schema is one this version may use, and a write commits."""
    if not _is_given(config, "database_url"):
        return _NOT_SET
    with Database(config.database_url, pool_size=1, wait_s=_TIMEOUT_S) as database:
        version.check(database)
        probe.require_writable(database)
        found = version.schema_of(database)
        return {"kind": database.dialect, "schema": found.revision if found else "none"}


def check_broker(config: Settings, _film: str | None) -> Facts:
    """The broker answers and never drops tasks for want of memory."""
    if not _is_given(config, "broker_url"):
        return _NOT_SET
    with _broker(config) as client:
        told = client.info()
    policy = told.get("maxmemory_policy", "unknown")
    if policy not in {"noeviction", "unknown"}:
        raise BrokerEvictsError(f"The broker's maxmemory-policy is {policy}.")
    return {
        "server": f"{told.get('server_name', 'redis')} {told.get('redis_version', '')}".strip(),
        "maxmemory_policy": policy,
        "append_only": bool(told.get("aof_enabled")),
    }


def check_store(config: Settings, film: str | None) -> Facts:
    """The films can be read; and the keys can do no more than they need."""
    places = _places(config)
    if film is None and not places:
        if config.s3 == settings.S3Settings():
            return _NOT_SET
        return {
            "checked": "no",
            "why": "no bucket is named; give --film, or set HILUM_GATEWAY__ALLOWED_URI_PREFIXES",
        }
    store = open_store(config.s3, config.limits)
    facts: Facts = {}
    if film is not None:
        stat = store.stat(film)
        facts["film_bytes"] = stat.size if stat else 0
    may_write = []
    for place in places:
        facts.setdefault("places", 0)
        facts["places"] += 1
        if _may_read(store, place) and film is None:
            facts["read"] = "allowed"
        elif film is None:
            facts["read"] = "unknown: listing is denied, so a missing object is, too; give --film"
        if store.may_write(f"{place}/{_nothing()}"):
            may_write.append(place)
    if may_write:
        facts["warning"] = (
            f"The keys may write in {len(may_write)} of the places of films. hilum only reads "
            "films: grant s3:GetObject there, and writing to the bucket of the cache alone."
        )
    return facts


def check_cache(config: Settings, _film: str | None) -> Facts:
    """The prepared-image cache has its secret, and its bucket can be read and written."""
    prepared = config.prepared
    if prepared.mode == "off":
        return {"mode": "off"}
    if prepared.secret is None:
        raise ConfigurationError(
            f"HILUM_PREPARED__SECRET is not set, but HILUM_PREPARED__MODE is {prepared.mode}.",
            next_step="Make one with `hilum cache secret`, and give it to every worker.",
        )
    facts: Facts = {"mode": prepared.mode}
    if prepared.bucket is not None and prepared.mode == "on":
        store = open_store(config.s3, config.limits)
        if not store.may_write(f"s3://{prepared.bucket}/{prepared.prefix}/{_nothing()}"):
            raise StoreRightsError("The keys may not write in the bucket of the prepared images.")
        facts["write"] = "allowed"
    return facts


def check_clock(config: Settings, _film: str | None) -> Facts:
    """This machine and the servers agree on the time: leases are times."""
    skews: dict[str, float] = {}
    if _is_given(config, "broker_url"):
        with _broker(config) as client:
            seconds, microseconds = client.time()
        skews["broker"] = seconds + microseconds / 1e6 - time.time()
    if _is_given(config, "database_url"):
        with Database(config.database_url, pool_size=1, wait_s=_TIMEOUT_S) as database:
            there = probe.server_time(database)
        if there is not None:
            skews["database"] = (there - datetime.now(UTC)).total_seconds()
    if not skews:
        return _NOT_SET
    worst = max(skews, key=lambda name: abs(skews[name]))
    if abs(skews[worst]) > _MOST_SKEW_S:
        raise ClockSkewedError(
            f"The clock of the {worst} is {skews[worst]:+.1f} s off this machine's."
        )
    return {f"{name}_s": round(skew, 1) for name, skew in skews.items()}


def check_disk(config: Settings, _film: str | None) -> Facts:
    """The cache and the folder for temporary files can be written and have room."""
    facts: Facts = {}
    for name, folder in {
        "cache": config.cache_dir,
        "temporary": Path(tempfile.gettempdir()),
    }.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"hilum")
        except OSError as error:
            raise DiskFullError(f"{folder} cannot be written: {error.strerror}.") from None
        free = shutil.disk_usage(folder).free
        if free < _LEAST_FREE_BYTES:
            raise DiskFullError(f"{folder} has {free / 2**20:.0f} MiB left; 1 GiB is needed.")
        facts[f"{name}_free_gib"] = round(free / 2**30, 1)
    return facts


CHECKS: Final[dict[str, Check]] = {
    "settings": check_settings,
    "database": check_database,
    "broker": check_broker,
    "store": check_store,
    "cache": check_cache,
    "clock": check_clock,
    "disk": check_disk,
}


def _is_given(config: Settings, name: str) -> bool:
    """Somebody has set it. The defaults are those of `make run`, which starts its own services."""
    return name in config.model_fields_set


def _broker(config: Settings) -> Any:
    """A connection to the broker; errors of it become hilum's, without its text, which may have
    the password."""
    try:
        import redis  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("The broker needs redis: install `hilum[serve]`.") from None
    return _Connection(redis, config.broker_url.get_secret_value())


class _Connection:
    """A client of Redis within a block. Of several Sentinels, the master of the first to answer."""

    def __init__(self, redis: Any, url: str) -> None:
        self._redis, self._url = redis, url
        self._client: Any = None

    def __enter__(self) -> Any:
        try:
            self._client = self._open()
            self._client.ping()
        except (self._redis.RedisError, OSError, ValueError) as error:
            raise BrokerUnavailableError(
                f"The broker did not answer ({type(error).__name__})."
            ) from None
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _open(self) -> Any:
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        first = self._url.split(";")[0]
        if not first.startswith("sentinel"):
            # kombu spells it CERT_REQUIRED, redis-py `required`.
            plain = re.sub(r"(ssl_cert_reqs=)CERT_(\w+)", _lower, first)
            return self._redis.Redis.from_url(plain, **timeouts)
        parts = [urlsplit(each) for each in self._url.split(";")]
        hosts = [(part.hostname or "", part.port or 26379) for part in parts]
        sentinel = self._redis.sentinel.Sentinel(hosts, **timeouts)
        masters = sentinel.sentinels[0].sentinel_masters()
        return sentinel.master_for(next(iter(masters)), password=parts[0].password, **timeouts)


def _lower(found: re.Match[str]) -> str:
    return found[1] + found[2].lower()


def _places(config: Settings) -> list[str]:
    """The buckets and folders of films that the settings name."""
    gateway = config.gateway
    named = [*gateway.allowed_uri_prefixes, *sum(gateway.tenant_uri_prefixes.values(), ())]
    return sorted({place.rstrip("/") for place in named if place.rstrip("/") not in {"s3:", ""}})


def _may_read(store: ObjectStore, place: str) -> bool:
    """A store that denies listing also denies what is not there."""
    try:
        store.stat(f"{place}/{_nothing()}")
    except ObjectMissingError:
        return True
    except AccessDeniedError:
        return False
    return True


def _nothing() -> str:
    return f".hilum/doctor-{secrets.token_hex(8)}"


def run(config: Settings, film: str | None, skipped: frozenset[str]) -> dict[str, Facts]:
    """The facts of every check that is not skipped; a failed one is ``{"error": …}``."""
    report: dict[str, Facts] = {}
    for name, check in CHECKS.items():
        if name in skipped:
            continue
        try:
            report[name] = check(config, film)
        except HilumError as error:
            report[name] = {"error": error.body()}
    return report
