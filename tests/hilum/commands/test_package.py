"""``hilum package``: verify, inspect, pack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support import tiny_package

from hilum.cli import main
from hilum.engines.loading import open_engine
from hilum.errors import ConfigurationError, PackageSignatureError, PackageUnsignedError
from hilum.packages.load import (
    Package,
    check_signature,
    load,
    pack,
    verify,
)
from hilum.packages.manifest import GRAPH, MANIFEST, SIGNATURE
from hilum.settings import Settings
from hilum.storage import ObjectStore

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMO85DHL9LXGJUgsJ7mkDnTtujyltYbVO9cXDVIkLh3w test"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_CACHE_DIR", str(tmp_path / "cache"))


def hilum(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["package", *map(str, arguments)])


def test_verify(tiny: Package, copy_of_tiny: Path) -> None:
    good = hilum("verify", tiny.folder)
    assert good.exit_code == 0
    assert tiny.digest in good.stdout
    document = json.loads(hilum("verify", tiny.folder, "--json").stdout)
    assert document == {
        "digest": tiny.digest,
        "verified": True,
        "engine": "onnxruntime-cpu",
        "signed": False,
        "signer": None,
    }
    (copy_of_tiny / GRAPH).write_bytes(b"exchanged")
    bad = hilum("verify", copy_of_tiny)
    assert bad.exit_code == 2
    assert "[package.digest_mismatch]" in bad.stderr
    assert bad.stdout == ""


def test_inspect(tiny: Package) -> None:
    text = hilum("inspect", tiny.folder)
    assert text.exit_code == 0
    assert text.stdout.startswith("*** demonstration only, not for clinical use ***\n")
    for label in tiny.manifest.label_set.labels:
        assert label in text.stdout
    document = json.loads(hilum("inspect", tiny.folder, "--json").stdout)
    assert document.pop("digest") == tiny.digest
    assert document == tiny.manifest.model_dump(mode="json")


def test_pack_and_verify_the_archive(tiny: Package, tmp_path: Path) -> None:
    packed = hilum("pack", tiny.folder, tmp_path / "tiny.zip")
    assert packed.exit_code == 0
    assert tiny.digest in hilum("verify", tmp_path / "tiny.zip").stdout
    assert hilum("pack", tiny.folder, tmp_path / "tiny.tar").exit_code == 2
    assert hilum("pack", tiny.folder, tmp_path / "none" / "tiny.zip").exit_code == 2


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, its public half beside it as OpenSSH keeps them."""
    made = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "key"
    path.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = made.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_name("key.pub").write_bytes(public + b" ai@hospital\n")
    return path


def test_sign_and_verify_whose_it_is(
    tiny: Package, copy_of_tiny: Path, key: Path, tmp_path: Path
) -> None:
    public = key.with_name("key.pub")
    unsigned = hilum("verify", copy_of_tiny, "--key", public)
    assert unsigned.exit_code == 2
    assert "[package.unsigned]" in unsigned.stderr
    signed = hilum("sign", copy_of_tiny, "--key", key)
    assert signed.exit_code == 0, signed.stderr
    assert tiny.digest in signed.stdout  # the identity is the same
    good = hilum("verify", copy_of_tiny, "--key", public)
    assert "Signed by ai@hospital, SHA256:" in good.stdout
    assert "not checked" in hilum("verify", copy_of_tiny).stdout
    assert hilum("pack", copy_of_tiny, tmp_path / "signed.zip").exit_code == 0
    archived = json.loads(
        hilum("verify", tmp_path / "signed.zip", "--key", public, "--json").stdout
    )
    assert archived["signer"] == "ai@hospital"
    # Re-sealed with something exchanged: digests hold, the signature does not.
    document = json.loads((copy_of_tiny / MANIFEST).read_text()) | {"version": "9"}
    (copy_of_tiny / MANIFEST).write_text(json.dumps(document))
    forged = hilum("verify", copy_of_tiny, "--key", public)
    assert forged.exit_code == 2
    assert "[package.signature]" in forged.stderr


def test_unsigned_packages_are_refused_where_signers_are_named(
    copy_of_tiny: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Settings(trusted_signers=key.with_name("key.pub"))
    with pytest.raises(PackageUnsignedError):
        open_engine(verify(copy_of_tiny), config)
    hilum("sign", copy_of_tiny, "--key", key)
    open_engine(verify(copy_of_tiny), config)
    other = key.with_name("other")
    other.write_text(f"someone {PUBLIC}\n")
    with pytest.raises(PackageSignatureError, match="not a trusted key"):
        open_engine(verify(copy_of_tiny), Settings(trusted_signers=other))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_engine(verify(copy_of_tiny), Settings(trusted_signers=key.with_name("none")))


def test_the_signature_is_over_the_manifest_that_is_used(copy_of_tiny: Path, key: Path) -> None:
    """One puts the signed manifest back once the other, with thresholds of its own, is in use."""
    hilum("sign", copy_of_tiny, "--key", key)
    signed = (copy_of_tiny / MANIFEST).read_bytes()
    signature = (copy_of_tiny / SIGNATURE).read_bytes()
    document = json.loads(signed)
    for point in document["operating_points"].values():
        point["threshold"] = 1.0
    (copy_of_tiny / MANIFEST).write_text(json.dumps(document))
    package = verify(copy_of_tiny)
    (copy_of_tiny / MANIFEST).write_bytes(signed)
    (copy_of_tiny / SIGNATURE).write_bytes(signature)
    config = Settings(trusted_signers=key.with_name("key.pub"))
    with pytest.raises(PackageSignatureError, match="replaced after"):
        check_signature(package, config)
    assert check_signature(verify(copy_of_tiny), config)
    (copy_of_tiny / MANIFEST).unlink()
    with pytest.raises(PackageSignatureError, match="cannot be read"):
        check_signature(package, config)


def test_a_signature_that_came_later_reaches_the_cache(
    copy_of_tiny: Path, key: Path, tmp_path: Path, local_store: ObjectStore
) -> None:
    archive = tmp_path / "p.zip"
    pack(verify(copy_of_tiny), archive)
    first = load(str(archive), store=local_store, cache_dir=tmp_path / "c")
    assert not (first.folder / SIGNATURE).exists()
    hilum("sign", copy_of_tiny, "--key", key)
    pack(verify(copy_of_tiny), archive)
    again = load(str(archive), store=local_store, cache_dir=tmp_path / "c")
    assert again.folder == first.folder
    assert check_signature(again, Settings(trusted_signers=key.with_name("key.pub")))


def test_diff(tiny: Package, copy_of_tiny: Path) -> None:
    assert "The same package" in hilum("diff", tiny.folder, copy_of_tiny).stdout
    tiny_package.build(copy_of_tiny, version="1.1.0", licence="MIT")
    (copy_of_tiny / "extra.txt").write_text("more")
    tiny_package.resealed(copy_of_tiny)
    text = hilum("diff", tiny.folder, copy_of_tiny).stdout
    assert 'manifest: version: "1.0.0" -> "1.1.0"' in text
    assert "Same graphs: stored raw outputs stay valid." in text
    document = json.loads(hilum("diff", tiny.folder, copy_of_tiny, "--json").stdout)
    assert document["same_graphs"]
    assert document["manifest"]["licence"] == ["Apache-2.0", "MIT"]
    assert document["files"] == {"added": ["extra.txt"], "removed": [], "changed": []}
