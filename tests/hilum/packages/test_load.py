"""Sealing, verifying and loading packages; and every way to refuse one."""

from __future__ import annotations

import io
import json
import multiprocessing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_package

from hilum.errors import (
    HilumError,
    PackageDigestError,
    PackageError,
    PackageMissingError,
    PackageSchemaError,
    UnknownBackboneError,
)
from hilum.packages.load import Package, load, pack, seal, verify
from hilum.packages.manifest import GRAPH, MANIFEST
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store


def edit_manifest(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(document | changes))


def test_seal_lists_every_file_and_can_be_repeated(tmp_path: Path) -> None:
    first = tiny_package.build(tmp_path)
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "notes.txt").write_text("more")
    (tmp_path / ".DS_Store").write_text("not part of it")
    fields = {name: getattr(first, name) for name in type(first).model_fields}
    del fields["files"], fields["format"]
    again = seal(tmp_path, **fields)
    assert set(again.files) == {*first.files, "extra/notes.txt"}
    assert again.digest != first.digest
    assert verify(tmp_path).manifest == again


def test_seal_refuses_wrong_fields_without_writing(tmp_path: Path) -> None:
    manifest = tiny_package.build(tmp_path)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(PackageSchemaError, match="operating_points"):
        tiny_package.build(tmp_path, operating_points={})
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert verify(tmp_path).digest == manifest.digest


def test_the_digest_names_the_content_not_the_place(tmp_path: Path) -> None:
    one = tiny_package.build(tmp_path / "one")
    two = tiny_package.build(tmp_path / "two")
    other = tiny_package.build(tmp_path / "other", version="1.0.1")
    assert one.digest == two.digest != other.digest


def damage(folder: Path) -> None:
    data = bytearray((folder / GRAPH).read_bytes())
    data[-1] ^= 1
    (folder / GRAPH).write_bytes(data)


REFUSALS: dict[str, tuple[type[HilumError], Callable[[Path], object]]] = {
    "one bit of a file": (PackageDigestError, damage),
    "a file missing": (PackageDigestError, lambda f: (f / GRAPH).unlink()),
    "a file not listed": (PackageDigestError, lambda f: (f / "more.onnx").write_bytes(b"x")),
    "no manifest": (PackageMissingError, lambda f: (f / MANIFEST).unlink()),
    "manifest not JSON": (PackageSchemaError, lambda f: (f / MANIFEST).write_text("{")),
    "manifest nested deeply": (
        PackageSchemaError,
        lambda f: (f / MANIFEST).write_text("[" * 100_000),
    ),
    "manifest huge": (PackageSchemaError, lambda f: (f / MANIFEST).write_bytes(b" " * 2**21)),
    "newer format": (PackageSchemaError, lambda f: edit_manifest(f, format=2)),
    "unknown key": (PackageSchemaError, lambda f: edit_manifest(f, colour="grey")),
    "unknown backbone": (UnknownBackboneError, lambda f: edit_manifest(f, backbone="resnet19")),
    "thresholds missing": (PackageSchemaError, lambda f: edit_manifest(f, operating_points={})),
    "calibration not a number": (
        PackageSchemaError,
        lambda f: edit_manifest(f, calibration={"scale": [float("nan")] * 6, "shift": [0] * 6}),
    ),
    "a path outside": (
        PackageSchemaError,
        lambda f: edit_manifest(
            f, files=json.loads((f / MANIFEST).read_text())["files"] | {"../x": "0" * 64}
        ),
    ),
    "labels repeated": (
        PackageSchemaError,
        lambda f: edit_manifest(
            f,
            label_set={
                "schema_id": "x",
                "kind": "multi_label",
                "labels": ["a", "a"],
                "normal": None,
            },
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case: str, copy_of_tiny: Path) -> None:
    expected, spoil = REFUSALS[case]
    spoil(copy_of_tiny)
    with pytest.raises(PackageError) as caught:
        verify(copy_of_tiny)
    assert type(caught.value) is expected


def test_a_file_exchanged_after_verification_is_not_handed_out(copy_of_tiny: Path) -> None:
    package = verify(copy_of_tiny)
    assert package.read(GRAPH)
    damage(copy_of_tiny)
    with pytest.raises(PackageDigestError):
        package.read(GRAPH)


def test_load_from_a_folder_leaves_the_cache_alone(
    tiny_folder: Path, tiny: Package, tmp_path: Path, local_store: ObjectStore
) -> None:
    assert load(str(tiny_folder), store=local_store, cache_dir=tmp_path / "c") == tiny
    assert not (tmp_path / "c").exists()
    with pytest.raises(PackageMissingError):
        load(str(tmp_path / "nothing"), store=local_store, cache_dir=tmp_path)


@pytest.mark.parametrize("inner", ["", "tiny-1.0.0/"])
def test_load_from_an_archive(
    inner: str, tiny: Package, tmp_path: Path, local_store: ObjectStore
) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *tiny.manifest.files):
            archive.writestr(inner + name, (tiny.folder / name).read_bytes())
        archive.writestr("__MACOSX/._" + MANIFEST, b"what the Finder adds")
    found = load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path / "c")
    assert found.digest == tiny.digest
    assert verify(found.folder).manifest == tiny.manifest


def test_pack_gives_the_same_bytes_and_loads(
    tiny: Package, tmp_path: Path, local_store: ObjectStore
) -> None:
    pack(tiny, tmp_path / "a.zip")
    pack(tiny, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert load(str(tmp_path / "a.zip"), store=local_store, cache_dir=tmp_path).manifest == (
        tiny.manifest
    )


def test_a_damaged_copy_in_the_cache_is_replaced(
    tiny: Package, tmp_path: Path, local_store: ObjectStore
) -> None:
    pack(tiny, tmp_path / "p.zip")
    cached = load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path).folder
    damage(cached)
    (cached.parent / f".{cached.name}.partial").mkdir()  # left by a process killed meanwhile
    again = load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path)
    assert again.folder == cached
    verify(cached)


def archive_of(package: Package, **more: bytes | None) -> bytes:
    """A zip of ``package`` with files replaced, added, or (``None``) left out."""
    files = {name: (package.folder / name).read_bytes() for name in package.manifest.files}
    files[MANIFEST] = (package.folder / MANIFEST).read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {**files, **more}.items():
            if data is not None:
                archive.writestr(name, data)
    return buffer.getvalue()


def test_archives_refused(tiny: Package, tmp_path: Path, local_store: ObjectStore) -> None:
    whole = archive_of(tiny)
    cases: dict[str, tuple[type[PackageError], bytes]] = {
        "not a zip": (PackageError, b"not a zip at all"),
        "cut short": (PackageError, whole[:200]),
        "empty": (PackageError, b""),
        "no manifest": (PackageMissingError, archive_of(tiny, **{MANIFEST: None})),
        "two manifests": (PackageMissingError, archive_of(tiny, **{"b/manifest.json": b"{}"})),
        "a file missing": (PackageDigestError, archive_of(tiny, **{GRAPH: None})),
        "a file changed": (PackageDigestError, archive_of(tiny, **{GRAPH: b"other"})),
        "leads outside": (PackageDigestError, archive_of(tiny, **{"../../evil": b"x"})),
        "absolute": (PackageDigestError, archive_of(tiny, **{"/tmp/evil": b"x"})),
    }
    for case, (expected, data) in cases.items():
        (tmp_path / "p.zip").write_bytes(data)
        with pytest.raises(PackageError) as caught:
            load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path / "a" / "b" / "c")
        assert type(caught.value) is expected, case
        packages = [p for p in tmp_path.rglob("*") if p.is_dir() and (p / MANIFEST).exists()]
        assert packages == [], case
    assert not (tmp_path / "a" / "evil").exists()


def test_an_archive_that_inflates_beyond_bounds_is_not_extracted(
    tiny: Package, tmp_path: Path, local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.packages.source.MAX_PACKAGE_BYTES", 1000)
    (tmp_path / "p.zip").write_bytes(archive_of(tiny))
    with pytest.raises(PackageError, match="larger than the limit of 1000 bytes"):
        load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_load_from_s3_prefix_and_archive(
    tiny: Package, tmp_path: Path, s3: S3Settings, bucket: str
) -> None:
    store = open_store(s3, Limits(max_object_bytes=100))  # a film's limit is not a package's
    for name in (MANIFEST, *tiny.manifest.files):
        store.write(f"s3://{bucket}/models/tiny/{name}", (tiny.folder / name).read_bytes())
    store.write(f"s3://{bucket}/models/tiny.zip", archive_of(tiny))
    for location in ("models/tiny", "models/tiny/", "models/tiny.zip"):
        cache = tmp_path / location.replace("/", "-")
        found = load(f"s3://{bucket}/{location}", store=store, cache_dir=cache)
        assert verify(found.folder).digest == tiny.digest
    for nothing in ("models/other", "models/other.zip"):
        with pytest.raises(PackageMissingError):
            load(f"s3://{bucket}/{nothing}", store=store, cache_dir=tmp_path)
    store.write(f"s3://{bucket}/models/tiny/{GRAPH}", b"exchanged")
    with pytest.raises(PackageDigestError):
        load(f"s3://{bucket}/models/tiny", store=store, cache_dir=tmp_path / "fresh")


def _load_in_child(archive: str, cache: Path, start: Any, answers: Any) -> None:
    start.wait()
    nobody = open_store(S3Settings(), Limits())
    answers.put(str(load(archive, store=nobody, cache_dir=cache).folder))


def test_processes_that_load_at_once_share_one_copy(tiny: Package, tmp_path: Path) -> None:
    pack(tiny, tmp_path / "p.zip")
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Event(), spawn.Queue()
    children = [
        spawn.Process(
            target=_load_in_child, args=(str(tmp_path / "p.zip"), tmp_path, start, answers)
        )
        for _ in range(3)
    ]
    for child in children:
        child.start()
    start.set()
    folders = {answers.get(timeout=60) for _ in children}
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert len(folders) == 1
    verify(Path(folders.pop()))
    assert not list((tmp_path / "packages").glob(".*.partial"))


def test_a_cache_that_cannot_be_written_is_a_typed_error(
    tiny: Package, tmp_path: Path, local_store: ObjectStore
) -> None:
    pack(tiny, tmp_path / "p.zip")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HilumError) as caught:
        load(str(tmp_path / "p.zip"), store=local_store, cache_dir=tmp_path / "file")
    assert caught.value.code == "config.invalid"


def test_hidden_files_do_not_matter(tiny: Package, copy_of_tiny: Path) -> None:
    (copy_of_tiny / ".git").mkdir()
    (copy_of_tiny / ".git" / "HEAD").write_text("x")
    (copy_of_tiny / ".DS_Store").write_text("x")
    assert verify(copy_of_tiny).digest == tiny.digest
