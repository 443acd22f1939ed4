"""Dockerfile and compose.yaml, as far as they can be read; tests/system builds and runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import yaml

from hilum.cli import main
from hilum.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"


def _settings() -> set[str]:
    found = set()
    for name, field in Settings.model_fields.items():
        found.add(f"HILUM_{name}".upper())
        inner = getattr(type(field.default), "model_fields", {})
        found |= {f"HILUM_{name}__{each}".upper() for each in inner}
    return found


def test_hadolint() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_set_only_variables_that_are_settings() -> None:
    names = set(re.findall(r"\b(HILUM_\w+)=", DOCKERFILE.read_text()))
    assert names
    assert names <= _settings()


def test_the_commands_of_the_images_parse() -> None:
    commands = re.findall(r"^CMD \[(.+)\]$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert len(commands) == 3
    for text in commands:
        _parse(re.findall(r'"([^"]+)"', text))


def _parse(arguments: list[str]) -> None:
    context = click.Context(main, info_name="hilum")
    command: click.Command | None = main
    while isinstance(command, click.Group):
        command = command.get_command(context, arguments.pop(0))
    assert command is not None
    command.make_context("command", arguments, parent=context)


def test_compose() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    known = _settings()
    for name in ("migration", "gateway", "worker"):
        service = services[name]
        assert service["read_only"] is True
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert set(service["environment"]) <= known
        _parse([*service["command"]])
    assert services["gateway"]["ports"][0].startswith("127.0.0.1:")
    assert "noeviction" in services["broker"]["command"]
    text = (ROOT / "compose.yaml").read_text()
    example = (ROOT / "deploy/docker/env.example").read_text()
    for required in re.findall(r"\$\{(\w+):\?", text):
        assert f"{required}=" in example
