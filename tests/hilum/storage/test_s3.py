"""Objects of a real S3 server; failures of the network by a server of our own."""

from __future__ import annotations

import pickle
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from hilum.errors import (
    AccessDeniedError,
    ConfigurationError,
    CredentialsRejectedError,
    HilumError,
    InvalidURIError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectRefusedError,
    ObjectTooLargeError,
    StorageUnavailableError,
)
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store
from hilum.storage.s3 import _of_response

AWKWARD = "Jürgen & Söhne/a b+c%20d?e=f#g.dcm"


@pytest.fixture
def store(s3: S3Settings) -> ObjectStore:
    return open_store(s3, Limits())


def test_read_write_and_download(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000  # more than one chunk
    for key in ("film.dcm", AWKWARD):
        store.write(f"s3://{bucket}/{key}", data)
        assert store.read(f"s3://{bucket}/{key}") == data
    store.write(f"s3://{bucket}/empty", b"")
    assert store.read(f"s3://{bucket}/empty") == b""
    store.download(f"s3://{bucket}/film.dcm", tmp_path / "film.dcm")
    assert (tmp_path / "film.dcm").read_bytes() == data


def test_size_is_bounded_to_the_byte(s3: S3Settings, store: ObjectStore, bucket: str) -> None:
    store.write(f"s3://{bucket}/five", b"12345")
    narrow = open_store(s3, Limits(max_object_bytes=4))
    with pytest.raises(ObjectTooLargeError):
        narrow.read(f"s3://{bucket}/five")
    assert narrow.read(f"s3://{bucket}/five", max_bytes=5) == b"12345"


def test_a_prefix_is_an_object_or_a_folder(store: ObjectStore, bucket: str) -> None:
    for key in ("s1/b.dcm", "s1/a.dcm", "s1/sub/c.dcm", "s1/.hidden/d.dcm", "s10/e.dcm", AWKWARD):
        store.write(f"s3://{bucket}/{key}", b"x")

    def found(prefix: str) -> list[str]:
        return [uri.removeprefix(f"s3://{bucket}/") for uri in store.iter_uris(prefix)]

    below = ["s1/a.dcm", "s1/b.dcm", "s1/sub/c.dcm"]
    assert found(f"s3://{bucket}/s1") == below
    assert found(f"s3://{bucket}/s1/") == below
    assert found(f"s3://{bucket}/s1/a.dcm") == ["s1/a.dcm"]
    assert found(f"s3://{bucket}/none") == []
    assert sorted(found(f"s3://{bucket}")) == sorted([*below, "s10/e.dcm", AWKWARD])
    for uri in store.iter_uris(f"s3://{bucket}"):
        assert store.read(uri) == b"x"


def test_listings_go_on_beyond_one_page(store: ObjectStore, bucket: str) -> None:
    names = [f"many/{i:04}" for i in range(1001)]  # a page has 1000
    for name in names:
        store.write(f"s3://{bucket}/{name}", b"")
    assert [u.removeprefix(f"s3://{bucket}/") for u in store.iter_uris(f"s3://{bucket}/many")] == (
        names
    )


def test_missing_objects_and_buckets(store: ObjectStore, bucket: str) -> None:
    for uri in (f"s3://{bucket}/DOE^JANE.dcm", "s3://no-such-bucket-here/DOE^JANE.dcm"):
        with pytest.raises(ObjectMissingError) as caught:
            store.read(uri)
        assert "JANE" not in str(caught.value)


def test_malformed_addresses(store: ObjectStore, bucket: str) -> None:
    for uri in ("s3://", "s3:///key", "s3://b ad/key", f"s3://{bucket}", f"s3://{bucket}/"):
        with pytest.raises(InvalidURIError):
            store.read(uri)


@pytest.mark.parametrize(
    "change",
    [
        {"secret_access_key": SecretStr("wrong")},
        {"access_key_id": "nobody"},
    ],
)
def test_wrong_credentials_are_transient(
    change: dict[str, object], s3: S3Settings, bucket: str
) -> None:
    wrong = open_store(s3.model_copy(update=change), Limits())
    for act in (
        lambda: wrong.read(f"s3://{bucket}/x"),
        lambda: list(wrong.iter_uris(f"s3://{bucket}/x")),
        lambda: wrong.write(f"s3://{bucket}/x", b""),
    ):
        with pytest.raises(CredentialsRejectedError) as caught:
            act()
        assert caught.value.transient
        assert "wrong" not in str(caught.value)


def test_half_a_credential_or_a_bad_endpoint_is_a_configuration_error() -> None:
    for settings in (
        S3Settings(access_key_id="only"),
        S3Settings(endpoint_url="nonsense", access_key_id="x", secret_access_key="y"),
    ):
        with pytest.raises(ConfigurationError):
            open_store(settings, Limits()).read("s3://bucket/key")


def test_one_store_serves_threads_and_survives_pickling(s3: S3Settings, bucket: str) -> None:
    store = open_store(s3, Limits())
    store.write(f"s3://{bucket}/x", b"x" * 100_000)
    failures: list[HilumError] = []

    def work() -> None:
        try:
            for _ in range(5):
                assert len(store.read(f"s3://{bucket}/x")) == 100_000
        except HilumError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pickle.loads(pickle.dumps(store)).read(f"s3://{bucket}/x") == b"x" * 100_000


@contextmanager
def answering(answer: bytes) -> Iterator[S3Settings]:
    """A server that says ``answer`` to every request and hangs up; for failures no real store
    can be made to have."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield S3Settings(
                endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
                access_key_id="x",
                secret_access_key=SecretStr("y"),
                max_attempts=1,
                read_timeout_s=5,
            )
        finally:
            server.shutdown()
            thread.join()


def http(status: str, body: bytes = b"", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def xml(code: str) -> bytes:
    text = f"<Error><Code>{code}</Code><Message>about DOE^JANE</Message></Error>"
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http("200 OK", b"half", length=8), StorageUnavailableError),
        (http("503 Slow Down", xml("SlowDown")), StorageUnavailableError),
        (http("500 Internal Server Error"), StorageUnavailableError),
        (http("400 Bad Request", xml("SomethingNew")), ObjectRefusedError),
        (http("400 Bad Request", xml("RequestTimeout")), StorageUnavailableError),
        (http("405 Method Not Allowed", xml("MethodNotAllowed")), ObjectRefusedError),
        (http("410 Gone"), ObjectRefusedError),
        (http("429 Too Many Requests"), StorageUnavailableError),
        (b"not http at all", StorageUnavailableError),
        (http("403 Forbidden", xml("AccessDenied")), AccessDeniedError),
        (http("403 Forbidden", xml("ExpiredToken")), CredentialsRejectedError),
        (http("403 Forbidden", xml("RequestTimeTooSkewed")), CredentialsRejectedError),
        (http("404 Not Found", xml("NoSuchBucket")), ObjectMissingError),
        (http("403 Forbidden", xml("InvalidObjectState")), ObjectMissingError),
        (http("400 Bad Request", xml("KeyTooLongError")), InvalidURIError),
        (http("200 OK", b"x", length=2**40), ObjectTooLargeError),  # refused before the transfer
    ],
)
def test_what_a_store_may_answer(answer: bytes, expected: type[HilumError]) -> None:
    with answering(answer) as settings, pytest.raises(HilumError) as caught:
        open_store(settings, Limits()).read("s3://bucket/DOE^JANE.dcm")
    assert type(caught.value) is expected
    assert "JANE" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_nobody_answers() -> None:
    settings = S3Settings(
        endpoint_url="http://127.0.0.1:9",
        access_key_id="x",
        secret_access_key=SecretStr("y"),
        max_attempts=1,
    )
    with pytest.raises(StorageUnavailableError):
        open_store(settings, Limits()).read("s3://bucket/key")


def test_an_answer_without_a_code_goes_by_its_status() -> None:
    def of(status: int) -> type[HilumError]:
        return type(_of_response({"ResponseMetadata": {"HTTPStatusCode": status}}))

    assert of(404) is ObjectMissingError
    assert of(401) is CredentialsRejectedError
    assert of(403) is AccessDeniedError
    assert of(502) is StorageUnavailableError


def test_who_may_read_but_not_list_can_still_name_one_object() -> None:
    with answering(http("403 Forbidden", xml("AccessDenied"))) as settings:
        store = open_store(settings, Limits())
        assert list(store.iter_uris("s3://bucket/a.dcm")) == ["s3://bucket/a.dcm"]
        with pytest.raises(AccessDeniedError):
            list(store.iter_uris("s3://bucket/folder/"))


def test_stat_and_conditional_reading(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/{AWKWARD}"
    store.write(uri, b"one")
    one = store.stat(uri)
    assert one is not None
    assert one.size == 3
    assert store.read(uri, etag=one.etag) == b"one"
    store.write(uri, b"two")
    two = store.stat(uri)
    assert two is not None
    assert two.version != one.version
    with pytest.raises(ObjectChangedError) as caught:
        store.read(uri, etag=one.etag)
    assert caught.value.transient
    with pytest.raises(ObjectMissingError):
        store.stat(f"s3://{bucket}/nothing")
    local = open_store(S3Settings(), Limits(), allow_local=True)
    assert local.stat(str(tmp_path)) is None


@contextmanager
def recording(answers: dict[str, bytes]) -> Iterator[tuple[S3Settings, list[str]]]:
    """A server that answers by the request's method, and every request's head as it came."""
    heads: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.rfile.readline()
            heads.append(head.decode())
            length = [n for n in head.lower().split(b"\r\n") if n.startswith(b"content-length:")]
            self.rfile.read(int(length[0].split(b":")[1]) if length else 0)
            self.wfile.write(answers[head.split(b" ")[0].decode()])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield (
            S3Settings(
                endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
                access_key_id="x",
                secret_access_key=SecretStr("y"),
                max_attempts=1,
            ),
            heads,
        )
        server.shutdown()


@pytest.mark.parametrize(
    "encryption",
    [
        {},
        {"x-amz-server-side-encryption": "AES256"},
        {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-central-1:1:key/k",
            "x-amz-server-side-encryption-bucket-key-enabled": "true",
        },
    ],
)
def test_what_is_written_beside_an_object_is_encrypted_like_it(encryption: dict[str, str]) -> None:
    """By a server of our own: the one of the tests has no key management to encrypt with."""
    said = "".join(f"{name}: {value}\r\n" for name, value in encryption.items())
    head = (
        'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "e"\r\n'
        f"Last-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\n{said}Connection: close\r\n\r\n"
    )
    with recording({"HEAD": head.encode(), "PUT": http("200 OK")}) as (settings, heads):
        store = open_store(settings, Limits())
        found = store.stat("s3://bucket/film.dcm")
        assert found is not None
        store.write_like(
            "s3://bucket/.hilum/x", b"data", encryption=found.encryption, tag="hilum=prepared"
        )
    sent = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in heads[1].split("\r\n"))
    }
    for name, value in encryption.items():
        assert sent[name] == value
    assert ("x-amz-server-side-encryption" in sent) == bool(encryption)
    assert sent["x-amz-acl"] == "bucket-owner-full-control"
    assert sent["x-amz-tagging"] == "hilum=prepared"


def test_removing_reports_what_could_not_be_removed() -> None:
    refused = b"<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    listed = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a</Key>"
        b"<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"
    )
    answers = {"GET": http("200 OK", listed), "POST": http("200 OK", refused)}
    before = datetime(2026, 1, 1, tzinfo=UTC)
    with recording(answers) as (settings, _):
        store = open_store(settings, Limits())
        with pytest.raises(AccessDeniedError):
            store.delete_below("s3://bucket/p", before=before, ending=re.compile("a$"))
