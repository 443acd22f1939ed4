"""Sign packages and check their signatures, in the format of `ssh-keygen -Y`.

The file ``manifest.json.sig`` is a detached OpenSSH signature (openssh-portable, PROTOCOL.sshsig)
of ``manifest.json``, made with an Ed25519 key. The manifest holds the sha256 of every other file.
An *allowed signers* file (ssh-keygen(1)) has one line for each trusted signer::

    radiology-ai@hospital.example namespaces="hilum-package" ssh-ed25519 AAAA…

OpenSSH alone can sign and check a package, too::

    ssh-keygen -Y sign -n hilum-package -f KEY manifest.json
    ssh-keygen -Y verify -n hilum-package -f SIGNERS -I WHO -s manifest.json.sig < manifest.json
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from hilum.errors import (
    ConfigurationError,
    PackageSignatureError,
    PackageUnsignedError,
)

NAMESPACE: Final = "hilum-package"
MAX_SIGNATURE_BYTES: Final = 16 * 2**10
_MAGIC: Final = b"SSHSIG"
_KIND: Final = b"ssh-ed25519"
_HASHES: Final[dict[bytes, Callable[[bytes], Any]]] = {
    b"sha512": hashlib.sha512,
    b"sha256": hashlib.sha256,
}
_ARMOUR = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----\s(.+?)\s-----END SSH SIGNATURE-----\s*", re.DOTALL
)
_SIGNER = re.compile(
    r"(?P<who>\"[^\"]+\"|\S+)\s+(?:(?P<options>(?:[^\s\"]|\"[^\"]*\")+)\s+)?"
    r"(?P<kind>ssh-\S+|sk-\S+|ecdsa-\S+)\s+(?P<key>[A-Za-z0-9+/=]+)(?:\s.*)?"
)
_OPTION = re.compile(r"([a-z-]+)(?:=\"([^\"]*)\"|=([^,]*))?(?:,|$)")


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A key that is trusted to sign packages."""

    name: str
    key: bytes  # an OpenSSH public key, base64-decoded
    valid_after: datetime | None = None
    valid_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The content of a signature file, not yet checked."""

    key: bytes
    hash_name: bytes
    value: bytes  # 64 bytes


def fingerprint(key: bytes) -> str:
    """``SHA256:…`` of an OpenSSH public key, as ``ssh-keygen -l`` shows it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def sign(message: bytes, private_key: bytes, password: bytes | None = None) -> bytes:
    """Sign ``message``, and return the armoured signature.

    Args:
        message: the bytes of ``manifest.json``.
        private_key: an Ed25519 key, as ssh-keygen writes it.

    Raises:
        ConfigurationError: the key cannot be used, or its password is wrong or missing.
    """
    try:
        key = serialization.load_ssh_private_key(private_key, password)
    except (ValueError, TypeError):
        raise ConfigurationError(
            "The private key cannot be read: it is not an OpenSSH key, or its password is wrong.",
            next_step="Use a key from `ssh-keygen -t ed25519`, with --ask-password if needed.",
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigurationError(
            "The private key is not an Ed25519 key.",
            next_step="Create one with `ssh-keygen -t ed25519`.",
        )
    public = _string(_KIND) + _string(key.public_key().public_bytes_raw())
    value = key.sign(_signed_bytes(message, b"sha512"))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + _string(public)
        + _string(NAMESPACE.encode())
        + _string(b"")
        + _string(b"sha512")
        + _string(_string(_KIND) + _string(value))
    )
    text = base64.b64encode(blob).decode()
    lines = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n".encode()


def parse(data: bytes) -> Signature:
    """Parse the content of a signature file.

    Raises:
        PackageSignatureError: it is not a signature, or was not made for packages.
    """
    armoured = _ARMOUR.fullmatch(data) if len(data) <= MAX_SIGNATURE_BYTES else None
    if armoured is None:
        raise PackageSignatureError("The signature file is not an OpenSSH signature.")
    try:
        blob = base64.b64decode(b"".join(armoured[1].split()), validate=True)
        if blob[:6] != _MAGIC or struct.unpack(">I", blob[6:10]) != (1,):
            raise ValueError
        key, namespace, _, hash_name, inner = _strings(blob[10:], 5)
        kind, value = _strings(inner, 2)
        key_kind, _ = _strings(key, 2)
    except (ValueError, struct.error, binascii.Error):
        raise PackageSignatureError("The signature file is damaged.") from None
    if namespace != NAMESPACE.encode():
        raise PackageSignatureError(f"The signature was not made for use as {NAMESPACE}.")
    if kind != _KIND or key_kind != _KIND or len(value) != 64 or hash_name not in _HASHES:
        raise PackageSignatureError("The signature was not made with an Ed25519 key.")
    return Signature(key=key, hash_name=hash_name, value=value)


def check(message: bytes, signature: Signature, signers: list[Signer]) -> Signer:
    """Check ``signature``, and return which of ``signers`` made it.

    Raises:
        PackageSignatureError: none of them did, or the signature is not for ``message``.
    """
    try:
        _, raw = _strings(signature.key, 2)
        key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
        key.verify(signature.value, _signed_bytes(message, signature.hash_name))
    except (InvalidSignature, ValueError):
        raise PackageSignatureError("The signature does not match this manifest.") from None
    now = datetime.now(UTC)
    for signer in signers:
        if signer.key == signature.key:
            if (signer.valid_after and now < signer.valid_after) or (
                signer.valid_before and now >= signer.valid_before
            ):
                continue
            return signer
    signed_by = fingerprint(signature.key)
    raise PackageSignatureError(
        f"The package is signed with {signed_by}, which is not a trusted key today."
    )


def read_signers(path: Path) -> list[Signer]:
    """Read the signers that the allowed signers file ``path`` trusts with packages. A file that
    holds only a public key (``ssh-ed25519 AAAA… comment``) trusts that key.

    Raises:
        ConfigurationError: the file cannot be read, names no signer, or has an invalid line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The file of trusted signers {path} cannot be read ({type(error).__name__})."
        ) from None
    found: list[Signer] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            found += _signers(text, f"{path}, line {number}")
    if not found:
        raise ConfigurationError(f"{path} has no signer that may sign packages.")
    return found


def require(folder: Path, signature_file: str, message: bytes, trusted: Path) -> Signer:
    """Check the signature of the package in ``folder``, and return its signer.

    Raises:
        PackageUnsignedError: there is no signature.
        PackageSignatureError: the signer is not in ``trusted``, or the manifest was changed.
        ConfigurationError: see :func:`read_signers`.
    """
    signers = read_signers(trusted)
    try:
        with (folder / signature_file).open("rb") as file:
            data = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise PackageUnsignedError(f"The package has no signature {signature_file}.") from None
    except OSError as error:
        raise PackageSignatureError(f"The signature cannot be read: {error.strerror}.") from None
    return check(message, parse(data), signers)


def _signers(text: str, where: str) -> Iterator[Signer]:
    parts = text.split()
    if parts[0] == _KIND.decode() and len(parts) > 1:  # a public key file
        yield Signer(name=" ".join(parts[2:]) or "key", key=_decode_key(parts[1], where))
        return
    matched = _SIGNER.fullmatch(text)
    if matched is None:
        raise ConfigurationError(f"{where} is not a valid line of an allowed signers file.")
    options = {
        name: quoted or plain for name, quoted, plain in _OPTION.findall(matched["options"] or "")
    }
    if unknown := set(options) - {"namespaces", "valid-after", "valid-before"}:
        raise ConfigurationError(f"{where}: unsupported option {', '.join(sorted(unknown))}.")
    if "namespaces" in options and NAMESPACE not in options["namespaces"].split(","):
        return
    if matched["kind"] != _KIND.decode():
        return  # a key for other uses: packages are signed with Ed25519
    yield Signer(
        name=matched["who"].strip('"'),
        key=_decode_key(matched["key"], where),
        valid_after=_parse_time(options.get("valid-after"), where),
        valid_before=_parse_time(options.get("valid-before"), where),
    )


def _parse_time(text: str | None, where: str) -> datetime | None:
    if text is None:
        return None
    digits = text.removesuffix("Z")
    layout = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    try:
        if layout is None:
            raise ValueError
        moment = datetime.strptime(digits, layout)
    except ValueError:
        raise ConfigurationError(f"{where}: {text!r} is not a valid timestamp.") from None
    return moment.replace(tzinfo=UTC) if text.endswith("Z") else moment.astimezone()


def _decode_key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
        if _strings(key, 2)[0] != _KIND:
            raise ValueError
    except (ValueError, struct.error, binascii.Error):
        raise ConfigurationError(f"{where} does not have a valid Ed25519 public key.") from None
    return key


def _signed_bytes(message: bytes, hash_name: bytes) -> bytes:
    digest = _HASHES[hash_name](message).digest()
    parts = (NAMESPACE.encode(), b"", hash_name, digest)
    return _MAGIC + b"".join(_string(part) for part in parts)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """Parse exactly ``count`` length-prefixed strings."""
    found: list[bytes] = []
    for _ in range(count):
        (size,) = struct.unpack(">I", data[:4])
        if size > len(data) - 4:
            raise ValueError("cut short")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise ValueError("more than expected")
    return found
