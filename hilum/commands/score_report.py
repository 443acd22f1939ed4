"""How ``hilum score`` says what it found: JSON lines for programs, text for people."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol

from hilum.deidentify.pseudonyms import Pseudonyms
from hilum.engines.loading import reason_of
from hilum.errors import HilumError
from hilum.packages.manifest import Manifest
from hilum.pipeline.admit import sure_doubts, warning
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Score

Status = Literal["scored", "refused", "failed"]
Ending = Status | Literal["doubtful"]
Echo = Callable[[str], None]


def status_of(result: Score | HilumError) -> Status:
    """``refused``: this image will not be scored by this model; ``failed``: it may be later."""
    if isinstance(result, Score):
        return "scored"
    return "failed" if result.transient or result.code.startswith("internal.") else "refused"


def endings_of(result: Score | HilumError) -> list[Ending]:
    """What an image counts as: its status, and ``doubtful`` if it was scored under a sure doubt."""
    doubtful = isinstance(result, Score) and sure_doubts(result.flags)
    return [status_of(result), "doubtful"] if doubtful else [status_of(result)]


# The keys of a scored image, so that every line has the same ones.
_NOT_SCORED: Final[dict[str, Any]] = {
    "sop_instance_uid": None,
    "content_sha256": None,
    "rows": None,
    "columns": None,
    "doubts": [],
    "probabilities": None,
    "findings": [],
    "flags": [],
}


class Report(Protocol):
    """Shows results one by one as they come, and nothing else."""

    def show(self, source: str, result: Score | HilumError, overlays: Sequence[str]) -> None:
        """One image: its address, how it ended, and the overlay files written for it."""
        ...


class JsonReport:
    """One JSON object a line and image; the keys are described in ``docs/use/command-line.md``."""

    def __init__(self, scorer: Scorer, echo: Echo, *, pseudonyms: Pseudonyms | None = None) -> None:
        manifest = scorer.package.manifest
        self._pseudonyms = pseudonyms
        self._labels = manifest.label_set.labels
        self._echo = echo
        self._always = {
            "model": {
                "name": manifest.name,
                "version": manifest.version,
                "digest": manifest.digest,
                "demonstration_only": manifest.demonstration_only,
            },
            "engine": scorer.engine.name,
            "engine_reason": reason_of(scorer.engine),
            "notice": manifest.notice,
        }

    def show(self, source: str, result: Score | HilumError, overlays: Sequence[str]) -> None:
        """See :class:`Report`."""
        document: dict[str, Any] = {
            "source": named(source, self._pseudonyms),
            "status": status_of(result),
        }
        if isinstance(result, Score):
            document |= self._scored(result) | {"error": None}
        else:
            document |= _NOT_SCORED | {"error": result.body()}
        self._echo(json.dumps(document | {"overlays": list(overlays)} | self._always))

    def _scored(self, score: Score) -> dict[str, Any]:
        uid, sha256 = score.sop_instance_uid, score.content_sha256.hex()
        if self._pseudonyms is not None:
            # Whoever has the file could find it by its sha256.
            uid, sha256 = self._pseudonyms.uid(uid), self._pseudonyms.token("content", sha256)
        return {
            "sop_instance_uid": uid or None,  # a PNG or JPEG has none
            "content_sha256": sha256,
            "rows": score.rows,
            "columns": score.columns,
            "doubts": list(sure_doubts(score.flags)),
            "probabilities": {
                label: _rounded(p)
                for label, p in zip(self._labels, score.probability.tolist(), strict=True)
            },
            "findings": [
                {
                    "label": finding.label,
                    "probability": _rounded(finding.probability),
                    "threshold": finding.threshold,
                }
                for finding in score.findings
            ],
            "flags": list(score.flags),
        }


class TextReport:
    """For the terminal: a table of all labels for one image, or a line each for many."""

    def __init__(
        self, scorer: Scorer, echo: Echo, *, many: bool, pseudonyms: Pseudonyms | None = None
    ) -> None:
        self._pseudonyms = pseudonyms
        self._manifest = scorer.package.manifest
        self._engine = scorer.engine.name
        self._echo = echo
        self._many = many
        if self._manifest.notice:
            echo(f"*** {self._manifest.notice} ***")

    def show(self, source: str, result: Score | HilumError, overlays: Sequence[str]) -> None:
        """See :class:`Report`."""
        name = printable(named(source, self._pseudonyms))
        if isinstance(result, HilumError):
            body = result.body()
            self._echo(f"{name}: {status_of(result)} [{body['code']}] {body['detail']}")
            if not self._many:
                self._echo(body["next_step"])
        elif self._many:
            found = ", ".join(f"{f.label} {f.probability:.2f}" for f in result.findings)
            doubts = "".join(f"[{doubt}] " for doubt in sure_doubts(result.flags))
            flags = f" ({', '.join(result.flags)})" if result.flags else ""
            self._echo(f"{name}: {doubts}{found or 'no finding'}{flags}")
        else:
            self._echo("\n".join([name, *self._table(result, self._manifest)]))
            for overlay in overlays:
                self._echo(f"overlay: {printable(overlay)}")

    def _table(self, score: Score, manifest: Manifest) -> list[str]:
        found = {finding.label for finding in score.findings}
        width = max(len(label) for label in manifest.label_set.labels)
        doubts = "".join(f"  {doubt}" for doubt in sure_doubts(score.flags))
        lines = [] if (said := warning(score.flags)) is None else [f"*** {said} ***"]
        if score.flags:
            lines.append(f"flags: {', '.join(score.flags)}")
        lines.append(f"    {'label':<{width}}  probability  threshold")
        for label, p in zip(manifest.label_set.labels, score.probability.tolist(), strict=True):
            mark = "->" if label in found else "  "
            threshold = manifest.operating_points[label].threshold
            lines.append(f" {mark} {label:<{width}}  {p:11.3f}  {threshold:9.3f}{doubts}")
        lines.append(f"model: {manifest.name} {manifest.version} {manifest.digest}")
        lines.append(f"engine: {self._engine}")
        return lines


def summary(counts: Counter[Ending]) -> str:
    """For example ``12 scored, 2 refused, 1 doubtful``; who is doubtful is scored, too."""
    ended: tuple[Ending, ...] = ("scored", "refused", "failed", "doubtful")
    return ", ".join(f"{counts[ending]} {ending}" for ending in ended if counts[ending])


def named(source: str, pseudonyms: Pseudonyms | None) -> str:
    """How the object at ``source`` is called: its address may hold a patient's name."""
    return source if pseudonyms is None else pseudonyms.token("source", source)


def printable(text: str) -> str:
    """``text`` as a terminal can show it: file names may hold any bytes, escape codes too."""
    decoded = os.fsencode(text).decode(errors="replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in decoded
    )


def _rounded(probability: float) -> float:
    """Six decimals: float32 has no more, and its exact decimal form only looks precise."""
    return round(probability, 6)
