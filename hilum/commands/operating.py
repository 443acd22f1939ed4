"""What commands that change SQL share: the database, and who acts."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hilum import settings
from hilum.db import version
from hilum.db.connection import Database


def actor() -> str:
    """The actor of the audit: the user of this machine."""
    try:
        return f"cli:{getpass.getuser()}"[:100]
    except (OSError, KeyError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


@contextmanager
def opened() -> Iterator[Database]:
    """The database of HILUM_DATABASE_URL, which this version may use."""
    with Database(settings.load().database_url) as database:
        version.check(database)
        yield database


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is done, unless ``--yes`` was given. Without a terminal to ask on, the
    command ends."""
    if not yes:
        click.confirm(question, abort=True, err=True)


def show(document: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Print the document, or the lines for people."""
    click.echo(json.dumps(document) if as_json else "\n".join(lines))
