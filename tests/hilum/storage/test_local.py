"""Files of this machine as objects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hilum.errors import (
    AccessDeniedError,
    InvalidURIError,
    ObjectMissingError,
    ObjectTooLargeError,
    StorageUnavailableError,
)
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store


def test_read_write_and_download(tmp_path: Path, local_store: ObjectStore) -> None:
    path = tmp_path / "a film #1?.dcm"
    local_store.write(str(path), b"one")
    assert local_store.read(str(path)) == b"one"
    assert local_store.read(path.as_uri()) == b"one"
    local_store.write(str(path), b"two")
    local_store.download(str(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"two"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        path.name,
        "copy",
    ]  # no temporary file stays


def test_size_is_bounded_to_the_byte(tmp_path: Path) -> None:
    store = open_store(S3Settings(), Limits(max_object_bytes=4), allow_local=True)
    (tmp_path / "four").write_bytes(b"1234")
    (tmp_path / "five").write_bytes(b"12345")
    assert store.read(str(tmp_path / "four")) == b"1234"
    with pytest.raises(ObjectTooLargeError):
        store.read(str(tmp_path / "five"))
    assert store.read(str(tmp_path / "five"), max_bytes=5) == b"12345"


def test_what_cannot_be_read_says_why_and_not_where(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    secret = "DOE^JANE"
    os.mkfifo(tmp_path / f"{secret}.pipe")  # reading it would wait for ever
    (tmp_path / secret).mkdir()
    cases = {
        f"{tmp_path}/{secret}/none.dcm": ObjectMissingError,
        f"{tmp_path}/{secret}": InvalidURIError,
        f"{tmp_path}/{secret}.pipe": InvalidURIError,
        f"{tmp_path}/{'x' * 300}{secret}": StorageUnavailableError,  # name too long for the disk
        f"ftp://host/{secret}": InvalidURIError,
        f"file://elsewhere/{secret}": InvalidURIError,
    }
    descriptors = len([*Path("/proc/self/fd").iterdir()])
    for uri, expected in cases.items():
        with pytest.raises(expected) as caught:
            local_store.read(uri)
        assert secret not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert len([*Path("/proc/self/fd").iterdir()]) == descriptors, "a file stayed open"


def test_a_file_without_permission(tmp_path: Path, local_store: ObjectStore) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0)
    root = os.geteuid() == 0  # may read everything, so be somebody else for a moment
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(AccessDeniedError):
            local_store.read(str(tmp_path / "f"))
    finally:
        if root:
            os.seteuid(0)


def test_services_do_not_read_local_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    store = open_store(S3Settings(), Limits())
    for uri in (str(tmp_path / "f"), (tmp_path / "f").as_uri()):
        with pytest.raises(InvalidURIError):
            store.read(uri)
        with pytest.raises(InvalidURIError):
            store.write(uri, b"y")
        with pytest.raises(InvalidURIError):
            list(store.iter_uris(uri))


def test_a_folder_is_walked_in_order_without_hidden_files_or_loops(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", "c/d/e.dcm", ".hidden", ".git/x", "b/.x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "c" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.dcm").symlink_to(tmp_path / "a.dcm")
    found = [os.path.relpath(uri, tmp_path) for uri in local_store.iter_uris(str(tmp_path))]
    assert found == ["a.dcm", "b/1.dcm", "b/2.dcm", "c/d/e.dcm", "link.dcm"]
    assert list(local_store.iter_uris(str(tmp_path / "a.dcm"))) == [str(tmp_path / "a.dcm")]
    assert list(local_store.iter_uris(str(tmp_path / "none"))) == []
