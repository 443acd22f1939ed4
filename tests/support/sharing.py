"""Share what is expensive to make between all processes of one run of pytest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hilum.files import locked


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which ``make`` fills in the first process that asks for it.

    With pytest-xdist every process has session fixtures of its own; this folder belongs to all of
    them, so tests must only read it. The path stays the same, so files in it may hold it. Use it in
    a fixture of scope "session" or "module"::

        @pytest.fixture(scope="session")
        def trained(tmp_path_factory):
            return make_once(tmp_path_factory, "trained", train_a_model)
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    folder, made = shared / name, shared / f"{name}.made"
    with locked(shared / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a maker before this one failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
