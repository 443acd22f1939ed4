"""A Docker daemon of our own and the images of deploy/docker, on a base from Debian's packages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The base image and the daemon's layers are kept between runs here; `make clean` removes them.
KEPT = Path(os.environ.get("SYSTEM_TESTS_FOLDER", ROOT / "build/system"))
BASE = "hilum-base:bookworm"
DAEMON = shutil.which("dockerd") or "dockerd"
# Debian's, which has the classic builder; another one may come first in PATH.
CLIENT = "/usr/bin/docker"
_OFFLINE = (
    "--iptables=false",
    "--ip6tables=false",
    "--bridge=none",
    "--ip-forward=false",
    "--ip-masq=false",
)


class Docker:
    """The daemon. Its network is none: containers use the host's."""

    def __init__(self) -> None:
        self._folder = KEPT / "docker"
        self._process: subprocess.Popen[bytes] | None = None
        self._containers: list[str] = []
        self._built: dict[str, str] = {}

    def start(self) -> str | None:
        """Start it. Returns why it cannot run here."""
        (self._folder / "run").mkdir(parents=True, exist_ok=True)
        log = self._folder / "dockerd.log"
        command = [
            DAEMON,
            "--data-root",
            self._folder / "data",
            "--exec-root",
            self._folder / "run",
        ]
        command += ["-H", f"unix://{self._socket}", "--pidfile", self._folder / "docker.pid"]
        command += ["--storage-driver", "overlay2", *_OFFLINE]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True
            )
        for _ in range(120):
            if self._process.poll() is not None:
                return log.read_text(errors="replace").strip().splitlines()[-1]
            if self._call("version", check=False).returncode == 0:
                return None
            time.sleep(0.5)
        self.stop()
        return "it did not answer within a minute"

    def stop(self) -> None:
        """Remove the containers and end the daemon, by its own process id."""
        for name in self._containers:
            self._call("rm", "--force", name, check=False)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def run(self, image: str, *arguments: str, options: Sequence[str] = ()) -> str:
        """Run a container to its end, as the chart would: read-only, no capabilities. Returns its
        stdout."""
        done = self._call("run", "--rm", *_HARDENED, *options, image, *arguments, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_container(
        self, name: str, image: str, *arguments: str, options: Sequence[str] = ()
    ) -> None:
        """Start a container that goes on."""
        self._containers.append(name)
        self._call("run", "--detach", "--name", name, *_HARDENED, *options, image, *arguments)

    def execute(self, name: str, *command: str) -> tuple[int, str]:
        """Run a command in a container. Returns its exit code and output."""
        done = self._call("exec", name, *command, check=False)
        return done.returncode, done.stdout + done.stderr

    def end(self, name: str, *, grace_s: int) -> int:
        """SIGTERM, and SIGKILL after the grace. Returns the exit code."""
        self._call("stop", "--time", str(grace_s), name)
        return int(self._call("wait", name).stdout)

    def logs(self, name: str) -> str:
        """What the container has written."""
        done = self._call("logs", name, check=False)
        return done.stdout + done.stderr

    def inspect(self, name: str) -> dict[str, object]:
        """Of an image or a container."""
        found: dict[str, object] = json.loads(self._call("inspect", name).stdout)[0]
        return found

    def build(self, target: str) -> str:
        """Build an image as `make images` does, once. Returns its name."""
        if target not in self._built:
            self._built[target] = self._build(target)
        return self._built[target]

    def _build(self, target: str) -> str:
        base = KEPT / "base.tar"
        if not base.exists():
            include = "--include=python3,python3-venv,ca-certificates"
            command = ["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", str(base)]
            subprocess.run(command, check=True, timeout=900)
        if self._call("image", "inspect", BASE, check=False).returncode:
            self._call("import", str(base), BASE)
        context = self._context()
        build_args = ("--build-arg", f"BASE={BASE}", "--build-arg", "REVISION=of-the-tests")
        file = context / "deploy/docker/Dockerfile"
        name = f"hilum/{target}:test"
        options = ("--network=host", "--target", target, "--tag", name, "--file", str(file))
        self._call("build", *options, *build_args, str(context))
        return name

    def _context(self) -> Path:
        """A copy of the tree, with the pip settings that this machine needs."""
        context = KEPT / "context"
        shutil.rmtree(context, ignore_errors=True)
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, tracked):
            if name.startswith(("docs/", "tests/", "benchmarks/")) or not (ROOT / name).is_file():
                continue
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.exists():  # a mirror may have a certificate that only this machine trusts
            shutil.copy(certificates, context / "deploy/docker/pip/ca.crt")
            text = "[global]\ncert = /etc/pip/ca.crt\ntimeout = 180\n"
            (context / "deploy/docker/pip/pip.conf").write_text(text)
        return context

    @property
    def _socket(self) -> Path:
        return self._folder / "docker.sock"

    def _call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self._socket}",
            "DOCKER_BUILDKIT": "0",
        }
        done = subprocess.run(
            [CLIENT, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"docker {arguments[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done


_HARDENED = (
    "--network=host",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:mode=1777,size=2g",
    "--tmpfs=/var/cache/hilum:uid=10001,gid=10001,size=2g",
)
