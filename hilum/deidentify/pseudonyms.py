"""Replace UIDs and addresses by pseudonyms. The same value always gets the same pseudonym.

A pseudonym is the HMAC-SHA256 (RFC 2104) of the value. For a UID, 122 bits of it form a version 8
UUID (RFC 9562) under the root 2.25 (PS3.5 section B.2). With the secret, a pseudonym can be matched
to a known UID, but the UID cannot be computed from its pseudonym.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hilum.errors import ConfigurationError
from hilum.settings import DeidentifySettings

_LEAST: Final = 32  # minimum number of characters of a secret


class Pseudonyms:
    """Derives pseudonyms from one secret.

    Args:
        secret: at least 32 characters, for example from ``hilum cache secret``.

    Raises:
        ConfigurationError: the secret is shorter.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < _LEAST:
            raise ConfigurationError(
                f"HILUM_DEIDENTIFY__SECRET must have at least {_LEAST} characters.",
                next_step="Create one with `hilum cache secret` and keep it: another secret gives "
                "other pseudonyms.",
            )
        self._secret = secret.encode()

    def uid(self, uid: str) -> str:
        """The pseudonym of a UID, which is a UID too. Empty for an empty UID."""
        if not uid:
            return ""
        value = int.from_bytes(self._digest("uid", uid)[:16], "big")
        value = value & ~(0xF << 76) | 8 << 76  # version
        value = value & ~(0x3 << 62) | 2 << 62  # variant
        return f"2.25.{value}"

    def token(self, kind: str, value: str) -> str:
        """The pseudonym of any other value, for example the address of an object."""
        return f"{kind}-{self._digest(kind, value).hex()[:32]}"

    def _digest(self, kind: str, value: str) -> bytes:
        text = f"{kind}\0{value}".encode(errors="surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).digest()


def open_pseudonyms(settings: DeidentifySettings) -> Pseudonyms:
    """Open the pseudonyms of these settings.

    Raises:
        ConfigurationError: the secret is missing or too short.
    """
    return Pseudonyms("" if settings.secret is None else settings.secret.get_secret_value())
