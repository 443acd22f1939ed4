"""The files of ``hilum score --overlay-dir``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Final

import click

from hilum.deidentify import text
from hilum.errors import HilumError, StorageUnavailableError
from hilum.files import write_atomically
from hilum.imaging import heatmaps
from hilum.imaging.transform import Float32Array, Placement
from hilum.packages.manifest import Manifest
from hilum.pipeline.admit import warning
from hilum.pipeline.stages import Score
from hilum.settings import DeidentifySettings

PREVIEW_SIDE: Final = 1024  # long side of an overlay, pixels
_MAX_STEM: Final = 100  # of 255 bytes that a file name may have


class Overlays:
    """Writes a PNG for every finding of an image, or for the labels asked for.

    Args:
        folder: made if missing.
        labels: write these, found or not; empty: the findings.
        manifest: of the model whose maps they are.
        deidentify: no text in the pictures, no names in the file names; its regions are covered.

    Raises:
        click.UsageError: the model has no such label, or the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        labels: tuple[str, ...],
        manifest: Manifest,
        *,
        deidentify: DeidentifySettings | None = None,
    ) -> None:
        known = manifest.label_set.labels
        if unknown := set(labels) - set(known):
            raise click.UsageError(
                f"The model has no label {', '.join(sorted(unknown))}; it has {', '.join(known)}."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--overlay-dir cannot be made: {error.strerror}.") from None
        self._folder = folder
        self._labels = labels
        self._manifest = manifest
        self._deidentify = deidentify

    def write(self, source: str, result: Score | HilumError) -> list[str]:
        """The paths of the files written for one image: none if it was not scored. ``source`` is
        what it is called in the names of the files.

        Raises:
            StorageUnavailableError: the folder cannot be written (any more).
        """
        if isinstance(result, HilumError):
            return []
        labels = self._labels or tuple(finding.label for finding in result.findings)
        film = result.preview
        assert film is not None  # the scorer was told to keep it
        if labels and self._deidentify is not None:
            film = text.mask(film, self._deidentify.regions)
        return [self._write_one(source, result, film, label) for label in labels]

    def _write_one(self, source: str, score: Score, film: Float32Array, label: str) -> str:
        index = self._manifest.label_set.index(label)
        height, width = film.shape
        placement = Placement.letterbox(
            height=score.rows, width=score.columns, size=self._manifest.input.size
        )
        heat = heatmaps.upsample(score.cam[index], placement, height, width)
        png = heatmaps.overlay(
            film,
            heat,
            probability=float(score.probability[index]),
            caption=heatmaps.caption(warning(score.flags), self._manifest.notice),
        )
        path = self._folder / f"{_stem(source)}.{index:02}-{_slug(label)}.png"
        try:
            write_atomically(path, png)
        except OSError as error:
            raise StorageUnavailableError(
                f"An overlay cannot be written: {error.strerror}.",
                next_step="Check the folder of --overlay-dir.",
            ) from None
        return str(path)


def _stem(source: str) -> str:
    """The source's own file name, and a digest of its whole address against collisions."""
    name = _slug(PurePosixPath(source).name.removesuffix(".dcm"))[:_MAX_STEM]
    return f"{name}.{hashlib.sha256(source.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
