"""Check which objects a tenant may name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from api_gateway.errors import InvalidRequestError
from hilum.errors import InvalidURIError
from hilum.settings import GatewaySettings


def check(uris: Sequence[str], tenant: str, settings: GatewaySettings) -> None:
    """Raise unless ``tenant`` may name all of ``uris``.

    A tenant with places of its own (``tenant_uri_prefixes``) may name only objects below these. Any
    other tenant may name objects below ``allowed_uri_prefixes``, except in the places of a tenant.

    Raises:
        InvalidRequestError: there are too many images, or one is listed twice.
        InvalidURIError: an address is not ``s3://bucket/key``, or not allowed.
    """
    limit = settings.max_images_per_study
    if len(uris) > limit:
        raise InvalidRequestError(f"The study has {len(uris)} images; at most {limit} are allowed.")
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
                f"images[{position}].uri is outside the places that the tenant may name.",
                next_step="Ask the operator: HILUM_GATEWAY__ALLOWED_URI_PREFIXES and "
                "HILUM_GATEWAY__TENANT_URI_PREFIXES list them.",
            )


def _below(parts: Sequence[str], places: Sequence[str]) -> bool:
    """Whether the object is below one of ``places``, compared by bucket and whole folders."""
    for place in map(_parts, places):
        folder = [part for part in place or () if part]
        if place is not None and list(parts[: len(folder)]) == folder:
            return True
    return False


def _parts(uri: str) -> list[str] | None:
    """The bucket and the segments of the key, or ``None`` if ``uri`` is not such an address. A
    store that resolves `..` would leave the place."""
    parts = uri.removeprefix("s3://").split("/")
    return None if not uri.startswith("s3://") or {".", ".."} & set(parts) else parts
