"""``hilum package``: verify, inspect, pack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hilum.cli import main
from hilum.package import GRAPH
from hilum.package_io import Package


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
    assert document == {"digest": tiny.digest, "verified": True, "engine": "onnxruntime-cpu"}
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
