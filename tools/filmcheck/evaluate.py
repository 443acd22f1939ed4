"""Chooses thresholds on the validation films, and measures on the test films and real films."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from hilum import filmcheck
from hilum.filmcheck import Doubt
from hilum.filmcheck.network import KINDS, Network
from tools.filmcheck import distort
from tools.filmcheck.data import Films
from tools.filmcheck.distort import Pose

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Judge = Callable[[Float32Array], tuple[Doubt, ...]]

STEPS: Final = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
SURE: Final = ("not_chest", "not_frontal", "rotated", "inverted")
# The lowest allowed thresholds. Synthetic films come from one CT, so real chests differ more from
# the training films than any validation film: of the distorted views of the one real chest film,
# one in five was called not a chest with 0.9 or more, and one in twenty with 0.99 or more.
FLOORS: Final = {"not_chest": 0.99, "not_frontal": 0.98}
WRONG_REFUSALS: Final = 0.0005  # share of good validation films, for each doubt
WRONG_REMARKS: Final = 0.01  # share of good validation films, for "mirrored"

TURNED: Final = {f"rotated by {90 * turn}°": Pose(turn=turn) for turn in (1, 2, 3)}
FAULTS: Final[dict[str, tuple[str, Pose]]] = {
    "inverted": ("frontal", Pose(inverted=True)),
    **{name: ("frontal", pose) for name, pose in TURNED.items()},
    "mirrored": ("frontal", Pose(mirrored=True)),
    "lateral": ("lateral", Pose()),
    "no chest": ("other", Pose()),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Outcomes of films of one kind: a row of the table in benchmarks/results/film-check.md."""

    films: str
    count: int
    refused: int
    flagged: int
    passed: int
    by: dict[str, int]  # refusals by doubt


def thresholds(network: Network, films: Films, *, count: int, seed: int) -> dict[str, float]:
    """The lowest of :data:`STEPS` at which hardly any good film is refused, for each doubt.

    Args:
        network: the trained network.
        films: the validation set.
        count: number of distorted good films.
        seed: of the distortions.
    """
    good = list(_distorted(films, "frontal", Pose(), count=count, seed=seed))
    found: dict[str, float] = {}
    for step in STEPS:
        every = dict.fromkeys((*SURE, "mirrored"), step)
        wrong: Counter[str] = Counter(
            doubt.name
            for view in good
            for doubt in filmcheck.check_view(view, network, every)
            if doubt.sure or doubt.name == "mirrored"
        )
        for name in every:
            allowed = WRONG_REMARKS if name == "mirrored" else WRONG_REFUSALS
            if wrong[name] <= allowed * count or step == STEPS[-1]:
                found.setdefault(name, step)
    return {name: max(step, FLOORS.get(name, 0.0)) for name, step in found.items()}


def on_films(judge: Judge, films: Films, *, good: int, faulty: int, seed: int) -> list[Row]:
    """Figures on ``good`` distorted films, and on ``faulty`` films of each fault."""
    rows = [
        row("frontal chest, as it should be", map(judge, _distorted(
            films, "frontal", Pose(), count=good, seed=seed)))
    ]  # fmt: skip
    for name, (kind, pose) in FAULTS.items():
        views = _distorted(films, kind, pose, count=faulty, seed=seed + 1)
        rows.append(row(name, map(judge, views)))
    return rows


def on_real(judge: Judge, films: dict[str, UInt8Array], *, each: int, seed: int) -> list[Row]:
    """Figures on the real films: undistorted, and ``each`` times distorted."""
    chest, leg = films["RG1"], films["RG3"]
    poses = {"as it is": Pose()}
    poses |= {name: pose for name, (kind, pose) in FAULTS.items() if kind == "frontal"}
    rows = []
    for name, pose in poses.items():
        rows.append(row(f"RG1 (a chest) {name}", [judge(distort.plain(chest, pose))]))
        rows.append(row(f"RG1 {name}, distorted", map(judge, _views(chest, pose, each, seed))))
    rows.append(row("RG3 (a leg) as it is", [judge(distort.plain(leg, Pose()))]))
    rows.append(row("RG3 distorted", map(judge, _views(leg, Pose(), each, seed))))
    return rows


def row(films: str, ended: Iterable[tuple[Doubt, ...]]) -> Row:
    """Count the outcomes of films under the default policy."""
    refused = flagged = count = 0
    by: Counter[str] = Counter()
    for doubts in ended:
        count += 1
        sure = next((doubt.name for doubt in doubts if doubt.sure), None)
        if sure is not None:
            refused += 1
            by[sure] += 1
        elif doubts:
            flagged += 1
    return Row(
        films=films,
        count=count,
        refused=refused,
        flagged=flagged,
        passed=count - refused - flagged,
        by=dict(sorted(by.items())),
    )


def table(rows: Iterable[dict[str, object]]) -> str:
    """``rows`` (:class:`Row` as dictionaries) in Markdown, with exact 95 % intervals of the share
    refused (Clopper and Pearson 1934)."""
    lines = ["| films | n | refused | flagged | passed | refused, 95 % |", f"|{'---|' * 6}"]
    for fields in rows:
        found = Row(**fields)  # type: ignore[arg-type]
        by = ", ".join(f"{name} {n}" for name, n in found.by.items())
        low, high = interval(found.refused, found.count)
        shown = f"{low:.2%} – {high:.2%}" if found.count > 1 else ""
        lines.append(
            f"| {found.films} | {found.count} | {found.refused}{f' ({by})' if by else ''} "
            f"| {found.flagged} | {found.passed} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def interval(hits: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


def fields(rows: Iterable[Row]) -> list[dict[str, object]]:
    """``rows`` as dictionaries for JSON."""
    return [asdict(found) for found in rows]


def _distorted(
    films: Films, kind: str, pose: Pose, *, count: int, seed: int
) -> Iterable[Float32Array]:
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(films.kind == KINDS.index(kind))
    for _ in range(count):
        yield distort.view(films.image[rng.choice(chosen)], pose, rng)


def _views(film: UInt8Array, pose: Pose, count: int, seed: int) -> Iterable[Float32Array]:
    rng = np.random.default_rng(seed)
    return (distort.view(film, pose, rng) for _ in range(count))
