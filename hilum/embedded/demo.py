"""The demonstration: sends real and synthetic films through the system and checks the outcomes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom.data import get_testdata_file

from hilum.db import keys
from hilum.db.connection import Database
from hilum.db.keys import CLIENT_SCOPES
from hilum.embedded.client import Client
from hilum.embedded.process import ServiceFailedError
from hilum.embedded.stack import Stack
from hilum.errors import ConfigurationError, ObjectMissingError
from hilum.settings import Limits
from hilum.storage import open_store

BUCKET: Final = "hilum-demo"
_POLL_S: Final = 0.2
_PATIENCE_S: Final = 300

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film of the demonstration, and its expected outcome."""

    name: str
    path: Path
    origin: str
    expected: str  # `scored`, or the expected error code

    @property
    def uri(self) -> str:
        """Its address in S3."""
        return f"s3://{BUCKET}/{self.name}.dcm"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A film, and its image as the gateway returns it."""

    film: Film
    image: dict[str, Any]

    @property
    def ended_as(self) -> str:
        """`scored`, or the code of its error."""
        status: str = self.image["status"]
        error = self.image["error"]
        return status if error is None else str(error["code"])

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability by label, or empty if the film was not scored."""
        result = self.image["result"]
        return {} if result is None else result["probabilities"]


def films(samples: Path) -> list[Film]:
    """Three real films from pydicom-data, and the synthetic films in the folder ``samples``."""
    real = {
        "RG1_UNCR": ("PA chest, uncompressed", "scored"),
        "RG1_J2KR": ("the same, JPEG 2000 lossless", "scored"),
        "RG3_UNCR": ("a leg", "policy.not_chest"),
    }
    found = []
    for name, (origin, expected) in real.items():
        file = get_testdata_file(f"{name}.dcm", download=False)
        if file is None:
            raise ConfigurationError(f"The film {name} is missing: install `hilum[embedded]`.")
        found.append(Film(name=name, path=Path(str(file)), origin=origin, expected=expected))
    index = samples / "samples.json"
    if index.is_file():
        for entry in json.loads(index.read_text())["films"]:
            path = samples / entry["file"]
            origin = f"synthetic: {', '.join(entry['labels'])}"
            found.append(Film(name=path.stem, path=path, origin=origin, expected="scored"))
    return found


def upload(stack: Stack, wanted: list[Film]) -> None:
    """Upload the films to S3, except those that it has."""
    store = open_store(stack.s3, Limits())
    try:
        existing = set(store.iter_uris(f"s3://{BUCKET}"))
    except ObjectMissingError:  # the first upload creates the bucket
        existing = set()
    for film in wanted:
        if film.uri not in existing:
            store.write(film.uri, film.path.read_bytes())


def api_key(stack: Stack, file: Path) -> str:
    """Return the API key in ``file``, or create one if the database does not know it."""
    with Database(stack.database_url) as database, database.write() as connection:
        if file.is_file() and keys.find(connection, secret := file.read_text().strip()):
            return secret
        _, secret = keys.create(connection, tenant="demo", name="make run", scopes=CLIENT_SCOPES)
    file.touch(mode=0o600)
    file.write_text(secret + "\n")
    return secret


def run(
    client: Client, stack: Stack, wanted: list[Film], *, model_digest: str, progress: Progress
) -> list[Outcome]:
    """Send all films as one study (the same for the same films and model), and wait for its end.

    Raises:
        ServiceFailedError: a service ended, or the study takes too long.
    """
    text = json.dumps([model_digest, [film.uri for film in wanted]])
    accepted = client.post(
        "/v1/studies",
        {"priority": "stat", "images": [{"uri": film.uri} for film in wanted]},
        idempotency_key=f"demo-{hashlib.sha256(text.encode()).hexdigest()}",
    )
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        study = client.get(accepted["status_url"])
        left = study["counts"]["pending"]
        progress(len(wanted) - left, len(wanted))
        if study["status"] in {"completed", "failed"}:
            images = study["images"]["images"]
            return [Outcome(film=f, image=i) for f, i in zip(wanted, images, strict=True)]
        if (child := stack.ended_child()) is not None:
            raise ServiceFailedError(f"{child.name} ended unexpectedly; see {child.log}.")
        if time.monotonic() > deadline:
            error = study["error"] or {"code": "none"}
            raise ServiceFailedError(
                f"{left} films are pending after {_PATIENCE_S} s. Last error: {error['code']}.",
                next_step=f"Read the logs in {stack.logs}.",
            )
        time.sleep(_POLL_S)


def overlays(client: Client, outcomes: list[Outcome], folder: Path) -> Iterator[Path]:
    """Save the overlay of every finding as PNG in ``folder``, and yield its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        result = outcome.image["result"]
        for finding in result["findings"] if result else ():
            url = result["cam"].get(finding["label"])
            if url is None:
                continue
            label = re.sub(r"[^a-z0-9]+", "-", finding["label"].lower())
            path = folder / f"{outcome.film.name}.{label}.png"
            path.write_bytes(client.get_bytes(f"{url}&format=png"))
            yield path


def surprises(outcomes: list[Outcome]) -> list[str]:
    """Describe every outcome that differs from the expected one."""
    found = [
        f"{o.film.name} ended as {o.ended_as}, expected {o.film.expected}"
        for o in outcomes
        if o.ended_as != o.film.expected
    ]
    by_name = {o.film.name: o for o in outcomes}
    one, other = by_name["RG1_UNCR"].probabilities, by_name["RG1_J2KR"].probabilities
    if one != other:
        found.append("RG1_UNCR and RG1_J2KR have the same pixels but different probabilities")
    return found
