"""Signatures: OpenSSH's own are believed, ours are what OpenSSH would write, nothing else is."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hilum.errors import ConfigurationError, PackageSignatureError
from hilum.packages import signing

# Made by OpenSSH: ssh-keygen -Y sign -n hilum-package -f key manifest.json
MESSAGE = b'{"a manifest": 1}\n'
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMO85DHL9LXGJUgsJ7mkDnTtujyltYbVO9cXDVIkLh3w test"
SIGNATURE = b"""\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgw7zkMcv0tcYlSCwnuaQOdO26PK
W1htU71xcNUiQuHfAAAAANaGlsdW0tcGFja2FnZQAAAAAAAAAGc2hhNTEyAAAAUwAAAAtz
c2gtZWQyNTUxOQAAAECKf7L6BStExET1FGl2uEJzEHjRil4xyZnmS3aBdvfY0/PnwfnZXn
PqqVewNI6evaxjbnq3N1dYtpWTawgeQAwG
-----END SSH SIGNATURE-----
"""


def keypair() -> tuple[bytes, str]:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public.decode()


def signers(tmp_path: Path, text: str) -> list[signing.Signer]:
    path = tmp_path / "signers"
    path.write_text(text)
    return signing.read_signers(path)


def test_a_signature_that_openssh_made(tmp_path: Path) -> None:
    trusted = signers(tmp_path, f'# us\nai@hospital namespaces="hilum-package" {PUBLIC}\n')
    found = signing.parse(SIGNATURE)
    assert signing.check(MESSAGE, found, trusted).name == "ai@hospital"
    with pytest.raises(PackageSignatureError, match="does not match this"):
        signing.check(MESSAGE + b" ", found, trusted)


def test_ours_has_the_form_of_openssh(tmp_path: Path) -> None:
    private, public = keypair()
    made = signing.sign(MESSAGE, private)
    assert signing.check(MESSAGE, signing.parse(made), signers(tmp_path, public)).name == "key"
    ours, theirs = (base64.b64decode(b"".join(s.splitlines()[1:-1])) for s in (made, SIGNATURE))
    # All but key and signature: magic, version, namespace, hash and every length.
    assert (len(ours), ours[:14], ours[65:115]) == (len(theirs), theirs[:14], theirs[65:115])


def test_a_key_with_a_password() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.BestAvailableEncryption(b"secret"),
    )
    assert signing.parse(signing.sign(MESSAGE, private, b"secret"))
    for password in (None, b"wrong"):
        with pytest.raises(ConfigurationError, match="password"):
            signing.sign(MESSAGE, private, password)


def test_other_keys_do_not_sign() -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    with pytest.raises(ConfigurationError, match="Ed25519"):
        signing.sign(MESSAGE, private)


DAMAGED: dict[str, bytes] = {
    "no armour": b"c2ln",
    "empty": b"",
    "not base64": SIGNATURE.replace(b"U1NIU0lH", b"U1NI*0lH"),
    "cut short": b"".join(SIGNATURE.splitlines(keepends=True)[:3])
    + b"-----END SSH SIGNATURE-----\n",
    "huge": SIGNATURE + b"\n" * 20_000,
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_signatures(case: str) -> None:
    with pytest.raises(PackageSignatureError):
        signing.parse(DAMAGED[case])


def test_a_signature_for_another_use() -> None:
    blob = base64.b64decode(b"".join(SIGNATURE.splitlines()[1:-1]))
    other = base64.b64encode(blob.replace(b"hilum-package", b"hilum-prescri"))
    armoured = b"-----BEGIN SSH SIGNATURE-----\n" + other + b"\n-----END SSH SIGNATURE-----\n"
    with pytest.raises(PackageSignatureError, match="not made for use"):
        signing.parse(armoured)


def test_who_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = signing.parse(SIGNATURE)

    def trusted(text: str) -> bool:
        try:
            signing.check(MESSAGE, found, signers(tmp_path, text))
        except PackageSignatureError:
            return False
        return True

    _, other = keypair()
    assert trusted(f"a {other}\nb {PUBLIC}\n")
    assert not trusted(f"a {other}\n")
    assert trusted(f'"Radiology AI" valid-after="20200101Z",valid-before="21000101" {PUBLIC}')
    assert not trusted(f'a valid-before="20200101Z" {PUBLIC}')
    assert not trusted(f'a valid-after="21000101" {PUBLIC}')
    assert trusted(f'a namespaces="git,hilum-package" {PUBLIC}')
    assert datetime.now(UTC).year < 2100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody\n",
        "somebody\n",
        f"a cert-authority {PUBLIC}\n",
        "a ssh-ed25519 AAAA\n",
        f'a valid-after="soon" {PUBLIC}\n',
        f'a namespaces="git" {PUBLIC}\n',
        "a ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB\n",
    ],
)
def test_trust_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        signers(tmp_path, text)
