"""One kept film, as bytes: what of it the model's input is made from, and what is known of it.

Everything is encrypted and authenticated (AES-256-GCM) for the film and the stage it belongs to.
A film made small still shows a patient, and the header facts hold UIDs; an entry that somebody
changed, or moved to another film's place, must never become a number.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import TypeAdapter

from hilum.dicom import FilmHeader
from hilum.imaging.transform import Grey, ModelInput, Placement

FORMAT: Final = 1
_MAGIC: Final = b"HPC\x01"
_NONCE: Final = 12  # bytes
_HEADER: Final = TypeAdapter(FilmHeader)


class DamagedEntryError(Exception):
    """The bytes are no entry of this film, this stage and this key. Never leaves the package."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """What is kept of a film."""

    content_sha256: bytes  # of the object itself
    header: FilmHeader
    # None: the header said enough to refuse the film, and nothing was decoded.
    kept: Grey | ModelInput | None


class Sealer:
    """Entries to bytes and back.

    Args:
        secret: any text, at least 32 characters of it random; see ``hilum cache secret``.
    """

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"hilum prepared " + secret.encode()).digest())

    def seal(self, entry: Entry, name: str) -> bytes:
        """``entry`` as bytes that only open under the same ``name``."""
        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, _packed(entry), name.encode())

    def open(self, data: bytes, name: str) -> Entry:
        """The entry in ``data``.

        Raises:
            DamagedEntryError: it is none, was sealed under another name or with another secret,
                or a byte of it has changed.
        """
        start = len(_MAGIC) + _NONCE
        if not data.startswith(_MAGIC):
            raise DamagedEntryError
        try:
            plain = self._cipher.decrypt(data[len(_MAGIC) : start], data[start:], name.encode())
            return _unpacked(plain)
        # Authenticated, so the rest cannot go wrong but for another version's entries.
        except (InvalidTag, ValueError, KeyError, TypeError, struct.error) as error:
            raise DamagedEntryError from error


def _packed(entry: Entry) -> bytes:
    """The length of the facts, the facts as JSON, the pixels as JPEG-LS."""
    kept = entry.kept
    facts: dict[str, Any] = {
        "sha256": entry.content_sha256.hex(),
        "header": asdict(entry.header),
        "kind": None,
    }
    pixels = b""
    if isinstance(kept, Grey):
        facts |= {"kind": "grey", "padded": kept.padded, "film": [kept.rows, kept.columns]}
        pixels = _coded(kept.values)
    elif kept is not None:
        facts |= {"kind": "input", "placement": asdict(kept.placement)}
        pixels = _coded(kept.image[0])
    text = json.dumps(facts).encode()
    return struct.pack("<I", len(text)) + text + pixels


def _unpacked(plain: bytes) -> Entry:
    (length,) = struct.unpack_from("<I", plain)
    facts = json.loads(plain[4 : 4 + length])
    pixels = plain[4 + length :]
    kept: Grey | ModelInput | None = None
    if facts["kind"] == "grey":
        rows, columns = facts["film"]
        values = np.ascontiguousarray(imagecodecs.jpegls_decode(pixels), dtype=np.uint16)
        kept = Grey(values=values, padded=facts["padded"], rows=rows, columns=columns)
    elif facts["kind"] == "input":
        image = np.ascontiguousarray(imagecodecs.jpegls_decode(pixels), dtype=np.uint8)
        kept = ModelInput(image=image[np.newaxis], placement=Placement(**facts["placement"]))
    header = _HEADER.validate_python(facts["header"])
    return Entry(
        content_sha256=bytes.fromhex(facts["sha256"]),
        header=replace(header, flags=tuple(header.flags)),
        kept=kept,
    )


def _coded(values: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    return bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(values), level=0))
