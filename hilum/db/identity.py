"""Who a film is of, as it stands in SQL: encrypted, with keyed hashes to search by.

Each value is encrypted with AES-256-GCM (NIST SP 800-38D) for its tenant, its column and its
instance, so that it opens nowhere else. Beside it stands HMAC-SHA256 of the value: equal values of
one tenant have equal hashes, and without the secret nothing can be told from a hash, not even by
trying all patient IDs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hilum.errors import ConfigurationError
from hilum.settings import IdentitySettings

Field = Literal["accession_number", "patient_id", "patient_name"]

_NONCE: Final = 12  # bytes
_MIN_SECRET: Final = 32  # characters


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """One value as it stands in SQL."""

    data: bytes  # nonce, then ciphertext with its tag
    hash: bytes  # 32 bytes


class IdentityVault:
    """Values to what stands in SQL, and back.

    Args:
        secret: any text, at least 32 characters of it random.

    Raises:
        ConfigurationError: the secret is missing or too short.
    """

    def __init__(self, secret: str | None) -> None:
        if secret is None or len(secret) < _MIN_SECRET:
            raise ConfigurationError(
                f"HILUM_IDENTITY__SECRET needs at least {_MIN_SECRET} characters while "
                "HILUM_IDENTITY__STORE is on.",
                next_step="Make one with `hilum cache secret` and give it to all processes; "
                "keep a copy, because what is stored cannot be read without it.",
            )
        self._cipher = AESGCM(_key(secret, "encrypt"))
        self._hash_key = _key(secret, "hash")

    def seal(self, value: str, *, field: Field, tenant: str, instance: bytes) -> Sealed:
        """``value`` encrypted for this ``field`` of this instance.

        Args:
            value: not empty.
            field: the column.
            tenant: whose instance it is.
            instance: SHA-256 of the object.
        """
        nonce = os.urandom(_NONCE)
        bound = _bound(field, tenant, instance)
        data = nonce + self._cipher.encrypt(nonce, value.encode(), bound)
        return Sealed(data=data, hash=self.hash(value, field=field, tenant=tenant))

    def open(self, data: bytes, *, field: Field, tenant: str, instance: bytes) -> str:
        """The value that :meth:`seal` was given.

        Raises:
            ConfigurationError: it was sealed with another secret or for another place, or has
                been changed.
        """
        try:
            bound = _bound(field, tenant, instance)
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], bound).decode()
        except (InvalidTag, ValueError):
            raise ConfigurationError(
                "A stored identity cannot be read with this HILUM_IDENTITY__SECRET."
            ) from None

    def hash(self, value: str, *, field: Field, tenant: str) -> bytes:
        """What to search the hash column for: an exact search, but for the case of letters and,
        in names, empty components at the end (PS3.5 section 6.2, PN)."""
        plain = value.strip().rstrip("^= ") if field == "patient_name" else value.strip()
        text = "\0".join((field, tenant, plain.casefold()))
        return hmac.digest(self._hash_key, text.encode(), "sha256")


def open_vault(settings: IdentitySettings) -> IdentityVault | None:
    """The vault of these settings; ``None``: no identity is stored.

    Raises:
        ConfigurationError: it has no secret.
    """
    if not settings.store:
        return None
    return IdentityVault(settings.secret.get_secret_value() if settings.secret else None)


def _key(secret: str, purpose: str) -> bytes:
    return hashlib.sha256(f"hilum identity {purpose} {secret}".encode()).digest()


def _bound(field: Field, tenant: str, instance: bytes) -> bytes:
    return "\0".join((field, tenant, instance.hex())).encode()
