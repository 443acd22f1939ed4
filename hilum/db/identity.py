"""The identity of a film's patient in SQL: encrypted, with keyed hashes to search by.

Each value is encrypted with AES-256-GCM (NIST SP 800-38D) and bound to its tenant, column and
instance; copied to another place, it cannot be decrypted. HMAC-SHA256 of the value is stored with
it: equal values of one tenant have equal hashes. Without the secret, a hash reveals nothing, even
to someone who tries all patient IDs.
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
    """One value as it is stored in SQL."""

    data: bytes  # nonce, then ciphertext with its tag
    hash: bytes  # 32 bytes


class IdentityVault:
    """Encrypts identities for SQL, and decrypts them.

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
                next_step="Create a secret with `hilum cache secret` and give it to all processes. "
                "Keep a copy: stored identities cannot be read without it.",
            )
        self._cipher = AESGCM(_key(secret, "encrypt"))
        self._hash_key = _key(secret, "hash")

    def seal(self, value: str, *, field: Field, tenant: str, instance: bytes) -> Sealed:
        """Encrypt ``value`` for this ``field`` of this instance.

        Args:
            instance: SHA-256 of the object.
        """
        nonce = os.urandom(_NONCE)
        bound = _bound(field, tenant, instance)
        data = nonce + self._cipher.encrypt(nonce, value.encode(), bound)
        return Sealed(data=data, hash=self.hash(value, field=field, tenant=tenant))

    def open(self, data: bytes, *, field: Field, tenant: str, instance: bytes) -> str:
        """Decrypt a value that :meth:`seal` encrypted.

        Raises:
            ConfigurationError: the value was encrypted with another secret or for another place,
                or has been changed.
        """
        try:
            bound = _bound(field, tenant, instance)
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], bound).decode()
        except (InvalidTag, ValueError):
            raise ConfigurationError(
                "A stored identity cannot be decrypted with this HILUM_IDENTITY__SECRET."
            ) from None

    def hash(self, value: str, *, field: Field, tenant: str) -> bytes:
        """The value of the hash column to search for. The search is exact, except for the case of
        letters and, in names, empty components at the end (PS3.5 section 6.2, PN)."""
        plain = value.strip().rstrip("^= ") if field == "patient_name" else value.strip()
        text = "\0".join((field, tenant, plain.casefold()))
        return hmac.digest(self._hash_key, text.encode(), "sha256")


def open_vault(settings: IdentitySettings) -> IdentityVault | None:
    """The vault of these settings, or ``None`` if no identity is to be stored.

    Raises:
        ConfigurationError: the secret is missing or too short.
    """
    if not settings.store:
        return None
    return IdentityVault(settings.secret.get_secret_value() if settings.secret else None)


def _key(secret: str, purpose: str) -> bytes:
    return hashlib.sha256(f"hilum identity {purpose} {secret}".encode()).digest()


def _bound(field: Field, tenant: str, instance: bytes) -> bytes:
    return "\0".join((field, tenant, instance.hex())).encode()
