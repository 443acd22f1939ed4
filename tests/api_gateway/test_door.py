"""The gateway's door, knocked at as a real process: who is let in, how much, and for how long."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import sqlite3
import stat
import string
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import pytest
from support.tiny_film import film

from api_gateway import places
from api_gateway.errors import InvalidRequestError
from hilum.db.keys import Scope
from hilum.embedded.valkey import Valkey
from hilum.errors import InvalidURIError
from hilum.settings import GatewaySettings, S3Settings

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A real ``hilum gateway`` on the data of ``gateway``."""

    def __init__(self, gateway: Gateway, **settings: object) -> None:
        self.gateway = gateway
        s3 = gateway.settings.s3
        environment = {
            **os.environ,
            "HILUM_DATABASE_URL": gateway.settings.database_url,
            "HILUM_BROKER_URL": gateway.settings.broker_url.get_secret_value(),
            "HILUM_S3__ENDPOINT_URL": str(s3.endpoint_url),
            "HILUM_S3__ACCESS_KEY_ID": str(s3.access_key_id),
            "HILUM_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value()  # type: ignore[union-attr]
            if s3.secret_access_key
            else "",
            **{f"HILUM_GATEWAY__{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hilum", "gateway", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        """With the usual key."""
        sent = {"Authorization": f"Bearer {self.gateway.secret}", **headers}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=data, headers=sent)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def until_ready(self, database: str) -> None:
        """Ask until this is said of the database; a loaded machine may run out of time first."""
        while True:
            status, _, body = self.ask("/readyz")
            checks = json.loads(body)["checks"]
            assert (status == 200) == (checks["database"] == "ok")
            if checks["database"] == database:
                return

    def raw(self, text: str) -> socket.socket:
        """A connection over which ``text`` was sent."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        link.sendall(text.encode())
        return link

    def post(self, secret: str, *headers: str) -> socket.socket:
        """The head of ``POST /v1/studies``, and no body."""
        lines = [f"Authorization: Bearer {secret}", "Content-Type: application/json", *headers]
        head = "\r\n".join(["POST /v1/studies HTTP/1.1", "Host: x", *lines])
        return self.raw(head + "\r\n\r\n")

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _rest(link: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while more := link.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    link.close()
    return data


@pytest.fixture
def serve(make_gateway: Callable[..., Gateway]) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(database_url: str | None = None, **settings: object) -> Server:
        servers.append(Server(make_gateway(database_url), **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(shared_gateway: Gateway) -> Iterator[Server]:
    """One with the usual settings, on SQLite, that no test harms."""
    server = Server(shared_gateway)
    yield server
    server.stop()


def test_a_database_that_takes_no_writes_is_not_ready(serve: Callable[..., Server]) -> None:
    server = serve()
    server.until_ready("ok")
    path = server.gateway.settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        server.until_ready("db.unavailable")
        assert server.ask("/healthz")[0] == 200
        other.execute("ROLLBACK")
    server.until_ready("ok")
    # As on a full disk: no file of the process may grow.
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    server.until_ready("db.unavailable")
    assert server.ask("/healthz")[0] == 200


def test_a_postgresql_that_only_reads_is_not_ready(
    serve: Callable[..., Server], postgres_url: str, make_gateway: Callable[..., Gateway]
) -> None:
    import psycopg
    from sqlalchemy import make_url

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE door_ready")
    url = make_url(postgres_url).set(database="door_ready")
    server = serve(url.render_as_string(hide_password=False))
    server.until_ready("ok")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER DATABASE door_ready SET default_transaction_read_only = on")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'door_ready'"
        )
    server.until_ready("db.unavailable")


def test_nothing_of_a_body_is_read_before_the_key_the_scope_and_the_limit(
    serve: Callable[..., Server],
) -> None:
    server = serve(max_body_bytes=1000, body_timeout_s=0.5)
    reader = server.gateway.headers(scopes=[Scope.READ])["Authorization"].split()[1]
    large, small = "Content-Length: 1000000000", "Content-Length: 100"
    cases = [
        ("hk_wrong", large, b"401", b"auth.unauthenticated"),
        (reader, large, b"403", b"auth.forbidden"),
        (server.gateway.secret, large, b"413", b"request.body_too_large"),
        (server.gateway.secret, "Content-Length: " + "9" * 19, b"413", b"body_too_large"),
        (server.gateway.secret, small, b"408", b"request.body_timeout"),  # and none comes
    ]
    for secret, length, status, code in cases:
        said = _rest(server.post(secret, length))
        assert said.startswith(b"HTTP/1.1 " + status), said
        assert code in said
        assert b"connection: close" in said.lower()
    with server.post(server.gateway.secret, "Transfer-Encoding: chunked") as link:
        for _ in range(3):
            link.sendall(b"190\r\n" + b" " * 400 + b"\r\n")
        assert link.recv(12) == b"HTTP/1.1 413"


def test_who_sends_no_request_does_not_stay(serve: Callable[..., Server]) -> None:
    server = serve(header_timeout_s=1)
    silent, slow = server.raw(""), server.raw("GET /healthz HTTP/1.1\r\nHost: x\r\n")
    kept = server.raw("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.recv(12) == b"HTTP/1.1 200"
    with suppress(ConnectionError):  # it may be closed already
        slow.sendall(b"X-More: 1\r\n")
    assert _rest(silent) == b""
    assert _rest(slow) == b""
    _rest(kept)
    assert server.ask("/healthz")[0] == 200


def test_a_connection_too_many_is_closed(serve: Callable[..., Server]) -> None:
    server = serve(header_timeout_s=300, max_connections=3)
    held = [server.raw("") for _ in range(3)]
    assert _rest(server.raw("")) == b""
    for link in held:
        link.close()
    while True:  # until it has seen that they are closed
        with suppress(urllib.error.URLError, ConnectionError):
            assert server.ask("/healthz")[0] == 200
            break


def test_a_head_without_end_is_refused(server: Server) -> None:
    link = server.raw("GET /healthz HTTP/1.1\r\nX-Long: " + "x" * 20_000)
    assert _rest(link).startswith(b"HTTP/1.1 400")


def test_errors_of_validation_are_few_and_short(server: Server) -> None:
    long = "x" * 5000
    bodies: list[Any] = [
        {"images": [{"url": n} for n in range(50_000)]},
        {f"field{n}": n for n in range(50_000)},
        {"images": [{f"field{n}": n for n in range(15)}], **{f"more{n}": 1 for n in range(15)}},
        {"images": [{"uri": "s3://b/k", long: 1}], long + "2": 1},
        {"images": [{"uri": "s3://b/k", "\ud800": 1}]},
    ]
    for body in bodies:
        status, _, answer = server.ask("/v1/studies", body)
        assert status == 422
        assert 1 <= len(json.loads(answer)["errors"]) <= 20
        assert len(answer) < 12_000


def test_overlays_do_not_hold_up_anything_else(
    serve: Callable[..., Server],
) -> None:
    server = serve(render_threads=1, render_queue=1)
    gateway = server.gateway
    data = film(1, rows=1500, columns=1500)
    gateway.store.write(f"s3://{gateway.bucket}/0.dcm", data)
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: gateway.result(data))
    cam = f"/v1/studies/{study}/images/{image}/cam?label=Effusion"
    key = f"Authorization: Bearer {gateway.secret}"
    abandoned = [server.raw(f"GET {cam} HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n") for _ in range(20)]
    assert server.ask("/healthz")[0] == 200
    assert server.ask("/v1/studies", {"images": [{"uri": "s3://b/k"}]})[0] == 202
    for link in abandoned:
        link.close()
    for _ in range(100):  # what was abandoned ends at its next step
        if server.ask(cam)[0] == 200:
            break
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(server.ask, [cam] * 12))
    assert {status for status, _, _ in answers} == {200, 503}
    for status, headers, body in answers:
        if status == 503:
            assert json.loads(body)["code"] == "cam.busy"
            assert headers["retry-after"]
        else:
            assert headers["cache-control"] == "no-store"
    assert server.ask(cam)[0] == 200, "room is given back"


def test_headers_for_browsers_and_no_redirects(server: Server) -> None:
    for path in ("/healthz", "/v1/studies/st_0", "/nothing"):
        _, headers, _ = server.ask(path)
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert "'self'" in server.ask("/docs")[1]["content-security-policy"]
    status, headers, _ = server.ask("/v1/models/", Host="evil.example")
    assert status == 404
    assert "location" not in {name.lower() for name in headers}


def test_below_means_below() -> None:
    settings = GatewaySettings(allowed_uri_prefixes=("s3://pacs", "s3://shared/in/"))
    for uri in ("s3://pacs/a", "s3://pacs/a/b", "s3://shared/in/a"):
        places.check([uri], "north", settings)
    for uri in (
        "s3://pacs-secret/a",
        "s3://shared/inside/a",
        "s3://shared/a",
        "s3://pacs/../other/a",
        "s3://pacs/./a",
        "s3://pacs",
        "s3://pacs/",
        "s3:///pacs/a",
        "S3://pacs/a",
    ):
        with pytest.raises(InvalidURIError):
            places.check([uri], "north", settings)
    places.check(["s3://any/where"], "north", GatewaySettings())
    with pytest.raises(InvalidRequestError):
        places.check(["s3://a/b", "s3://a/b"], "north", GatewaySettings())


def test_a_tenant_names_no_film_of_another(serve: Callable[..., Server]) -> None:
    own = {"north": ["s3://pacs/north"], "south": ["s3://pacs/south/"]}
    server = serve(tenant_uri_prefixes=json.dumps(own))
    tenants = {name: server.gateway.headers(name) for name in ("north", "south", "east")}
    allowed = {
        "north": ["s3://pacs/north/1"],
        "south": ["s3://pacs/south/1"],
        "east": ["s3://pacs/northern/1", "s3://pacs/1", "s3://other/1"],
    }
    for tenant, headers in tenants.items():
        for owner, uris in allowed.items():
            for uri in uris:
                status = server.ask("/v1/studies", {"images": [{"uri": uri}]}, **headers)[0]
                assert status == (202 if owner == tenant else 422), (tenant, uri)


def test_no_input_is_a_mistake_of_ours(
    serve: Callable[..., Server], database_url: str, request: pytest.FixtureRequest
) -> None:
    """Every parameter, with what databases and encodings choke on; seeded."""
    on_sqlite = database_url.startswith("sqlite")
    server = request.getfixturevalue("server") if on_sqlite else serve(database_url)
    study = server.gateway.study()
    (image,) = server.gateway.finish(study, lambda _n: InvalidURIError("No."))
    rng = random.Random(7)
    odd = ["\0", "a\0b", "\ud800", "\uffff", "é" * 70, "'; --", "%00", "%", "..", "/", "\n", "\x7f"]
    odd += [
        "-1",
        "-2",
        str(2**31 - 1),
        str(2**31),
        str(2**63),
        str(2**64),
        "1e9",
        "9" * 400,
        "",
        " ",
    ]
    odd += [
        "".join(rng.choices(string.printable + "\0é\u202e", k=rng.randrange(1, 40)))
        for _ in range(4)
    ]
    numbers = [2**31, 2**63, 2**70, -(2**63), 1e308, None, True, [], {}]
    for text in odd:
        encoded = quote(text.encode(errors="surrogatepass"), safe="")
        for path in (
            f"/v1/studies/{encoded}",
            f"/v1/studies/{encoded}/images",
            f"/v1/studies/{study}/images?after={encoded}",
            f"/v1/studies/{study}/images?limit={encoded}",
            f"/v1/studies/{study}/images/{encoded}",
            f"/v1/studies/{study}/images/{encoded}/cam?label=Effusion",
            f"/v1/studies/{encoded}/images/{image}/cam?label={encoded}",
            f"/v1/studies/{study}/images/{image}/cam?label={encoded}&format={encoded}",
            f"/v1/studies/{study}/images/{image}/cam?label=x&mask_text={encoded}",
            f"/{encoded}",
        ):
            status, _, body = server.ask(path)
            assert status in {200, 400, 404, 405, 409, 422}, (path, body)
        for value in (text, rng.choice(numbers)):
            for sent in (
                {"images": [{"uri": value}]},
                {"images": [{"uri": f"s3://b/{value}"}], "priority": value},
                {"images": value},
                {"images": [{"uri": "s3://b/k", text: value}]},
            ):
                status, _, body = server.ask("/v1/studies", sent)
                assert status in {202, 400, 422}, (sent, body)
        if text and text.isascii() and text.isprintable():
            key = {
                "Idempotency-Key": text,
                "X-API-Key": text,
                "Accept": text,
                "If-None-Match": text,
            }
            body = {"images": [{"uri": "s3://b/k"}]}
            assert server.ask("/v1/studies", body, **key)[0] in {202, 422}
    # Known ones, each as itself.
    assert server.ask(f"/v1/studies/{study}/images?after={2**31}")[0] == 422
    assert server.ask("/v1/studies/%00")[0] == 422
    assert server.ask("/v1/studies", {"images": [{"uri": "s3://b/a\0b"}]})[0] == 422


def test_the_embedded_store_gives_no_film_without_a_signature(
    s3: S3Settings, valkey: Valkey, services: Path, gateway: Gateway
) -> None:
    gateway.store.write(f"s3://{gateway.bucket}/film.dcm", film(1))
    arguments = next(
        process.cmdline()
        for process in psutil.Process().children()
        if any("-filer.disableHttp" in argument for argument in process.cmdline())
    )
    ports = dict(argument.split("=", 1) for argument in arguments if "port" in argument)
    for port in (ports["-filer.port"], ports["-volume.port"], ports["-s3.port"]):
        for path in (f"/buckets/{gateway.bucket}/film.dcm", f"/{gateway.bucket}/film.dcm", "/1,01"):
            with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10)
            if isinstance(caught.value, urllib.error.HTTPError):
                caught.value.close()
    for folder in ("valkey", "seaweed"):
        # SeaweedFS opens some of its files to all by itself; nobody comes that far.
        assert stat.S_IMODE((services / folder).stat().st_mode) == 0o700
    for name in ("valkey/password", "valkey/valkey.conf", "valkey/valkey.log", "seaweed/secret"):
        assert stat.S_IMODE((services / name).stat().st_mode) == 0o600, name
