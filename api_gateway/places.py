"""Which objects a tenant may name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from api_gateway.errors import InvalidRequestError
from hilum.errors import InvalidURIError
from hilum.settings import GatewaySettings


def check(uris: Sequence[str], tenant: str, settings: GatewaySettings) -> None:
    """Raise unless ``tenant`` may ask for all of ``uris``.

    A tenant with places of its own (``tenant_uri_prefixes``) may name objects below those and no
    others; any other tenant, objects below ``allowed_uri_prefixes`` that are in no tenant's place.

    Raises:
        InvalidRequestError: too many, or one twice.
        InvalidURIError: one is no ``s3://bucket/key``, or outside.
    """
    limit = settings.max_images_per_study
    if len(uris) > limit:
        raise InvalidRequestError(f"The study has {len(uris)} images; at most {limit} are taken.")
    if len(set(uris)) != len(uris):
        raise InvalidRequestError(f"{len(uris) - len(set(uris))} images are listed twice.")
    own = settings.tenant_uri_prefixes.get(tenant)
    allowed = settings.allowed_uri_prefixes if own is None else own
    taken = [] if own is not None else [*chain(*settings.tenant_uri_prefixes.values())]
    for position, uri in enumerate(uris):
        parts = _parts(uri)
        if parts is None or not parts[0] or not any(parts[1:]):
            raise InvalidURIError(
                f"images[{position}].uri is not s3://bucket/key.", next_step="Use s3://bucket/key."
            )
        if not _below(parts, allowed) or _below(parts, taken):
            raise InvalidURIError(
                f"images[{position}].uri is outside the places this gateway may read for the "
                "tenant.",
                next_step="Ask the operator: HILUM_GATEWAY__ALLOWED_URI_PREFIXES and "
                "HILUM_GATEWAY__TENANT_URI_PREFIXES list them.",
            )


def _below(parts: Sequence[str], places: Sequence[str]) -> bool:
    """By whole segments: the bucket, then each folder of the key."""
    for place in map(_parts, places):
        folder = [part for part in place or () if part]
        if place is not None and list(parts[: len(folder)]) == folder:
            return True
    return False


def _parts(uri: str) -> list[str] | None:
    """Bucket and key segments; ``None`` if it is no such URI. `..` would let a store that
    resolves it leave the place."""
    parts = uri.removeprefix("s3://").split("/")
    return None if not uri.startswith("s3://") or {".", ".."} & set(parts) else parts
