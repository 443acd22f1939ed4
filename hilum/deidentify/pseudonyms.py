"""UIDs and addresses become pseudonyms: the same for the same, and not to be undone without a key.

HMAC-SHA256 (RFC 2104) of the value; of a UID, 122 bits of it as a UUID of version 8 (RFC 9562)
under the root 2.25 (PS3.5 section B.2). Whoever has the secret can match a pseudonym with a UID
that they know; nobody can compute the UID from it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hilum.errors import ConfigurationError
from hilum.settings import DeidentifySettings

_LEAST: Final = 32  # characters of a secret


class Pseudonyms:
    """Pseudonyms under one secret.

    Args:
        secret: at least 32 characters, for example from ``hilum cache secret``.

    Raises:
        ConfigurationError: it is shorter.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < _LEAST:
            raise ConfigurationError(
                f"HILUM_DEIDENTIFY__SECRET needs at least {_LEAST} characters.",
                next_step="Make one with `hilum cache secret` and keep it: other secrets give "
                "other pseudonyms.",
            )
        self._secret = secret.encode()

    def uid(self, uid: str) -> str:
        """The pseudonym of a UID, itself a UID; of none, none."""
        if not uid:
            return ""
        value = int.from_bytes(self._digest("uid", uid)[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76  # version
        value = value & ~(0x3 << 62) | 2 << 62  # variant
        return f"2.25.{value}"

    def token(self, kind: str, value: str) -> str:
        """The pseudonym of anything else, for example of an object's address."""
        return f"{kind}-{self._digest(kind, value).hex()[:32]}"

    def _digest(self, kind: str, value: str) -> bytes:
        text = f"{kind}\0{value}".encode(errors="surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).digest()


def open_pseudonyms(settings: DeidentifySettings) -> Pseudonyms:
    """Those of these settings.

    Raises:
        ConfigurationError: there is no secret, or a short one.
    """
    return Pseudonyms("" if settings.secret is None else settings.secret.get_secret_value())
