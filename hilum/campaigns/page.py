"""The report of a campaign as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from hilum.campaigns.comparing import Changed, Comparison

_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .6rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f5f5f5}
th{border-bottom:2px solid #ccc}.note{color:#666}.films{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0;width:20rem}figure img,figure svg{width:9.8rem;height:auto;background:#000}
.warning{background:#fff3cd;padding:.6rem 1rem}
"""


# A PNG of the film with the map, or the grid [h, w] alone; None: the map was not kept.
Picture: TypeAlias = bytes | npt.NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """The pictures of one film: the map of one label, before and after."""

    before: Picture
    after: Picture


Looks = Callable[[Changed], Look]


def render(comparison: Comparison, looks: Looks) -> str:
    """The page.

    Args:
        comparison: what :func:`hilum.campaigns.comparing.compare` found.
        looks: the pictures of a film that changed.
    """
    found = comparison.document
    title = f"Campaign {found['name']}"
    notice = comparison.manifest.notice
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=warning>{escape(notice)}</p>" if notice else "",
        _summary(found),
        "<h2>Labels</h2>",
        "<p>A label flips where one result is at or above the operating point of its own model and "
        "the other is not. Intervals are 95 %.</p>",
        _plot(found["labels"], found["n"]),
        _labels(found),
        "<h2>Strata</h2>",
        _strata(found),
        "<h2>Readers</h2>",
        _readers(found["readers"]),
        "<h2>Films that changed most</h2>",
        "<div class=films>",
        *(_figure(one, looks(one)) for one in comparison.changed),
        "</div>",
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>\n{body}\n</body></html>\n"
    )


def _summary(found: dict[str, Any]) -> str:
    flipped, low, high = found["flipped"]
    rows = [
        ("campaign", f"{found['campaign']} ({found['status']})"),
        ("model", found["model"]),
        ("pipeline", found["pipeline"]),
        ("scored, refused, failed", f"{found['scored']}, {found['refused']}, {found['failed']}"),
        ("pairs compared", f"{found['pairs']} of {found['scored']}"),
        ("without a result before", found["without_a_result_before"]),
        ("films of which a label flips", f"{flipped} ({_share(low)} to {_share(high)})"),
        *(
            (f"compared with {one['model'][:19]}…", f"{one['pairs']} ({one['pipeline']})")
            for one in found["compared_with"]
        ),
        *((f"ended as {code}", n) for code, n in sorted(found["codes"].items())),
    ]
    return _table((), rows)


def _labels(found: dict[str, Any]) -> str:
    head = ("label", "before", "after", "gained", "lost", "change of share", "PSI")
    rows = [
        (
            label,
            one["before"],
            one["after"],
            _counted(one["gained"]),
            _counted(one["lost"]),
            f"{_share(one['change'][0])} ({_share(one['change'][1])} to "
            f"{_share(one['change'][2])})",
            _psi(one["psi"]),
        )
        for label, one in found["labels"].items()
    ]
    return _table(head, rows)


def _strata(found: dict[str, Any]) -> str:
    """One row a stratum: the share of films with a flip, and each label's flips as a shade."""
    labels = [*found["labels"]]
    if not found["strata"]:
        return "<p class=note>No stratum has enough pairs.</p>"
    rows = []
    for one in found["strata"]:
        flipped, low, high = one["flipped"]
        cells = []
        for label in labels:
            values = one["labels"][label]
            share = (values["gained"][0] + values["lost"][0]) / one["n"]
            shade = min(1.0, 5 * share)
            said = f"{values['gained'][0]} gained, {values['lost'][0]} lost"
            cells.append(
                f'<td style="background:rgba(200,60,20,{shade:.2f})" title="{escape(said)}">'
                f"{_share(share)}<br><small>{_psi(values['psi'])}</small></td>"
            )
        name = f"{one['stratum']}: {one['value']}"
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{one['n']}</td><td>{flipped} "
            f"({_share(low)} to {_share(high)})</td>{''.join(cells)}</tr>"
        )
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    note = f"{found['smaller_strata']} smaller strata are not shown."
    return (
        "<p>Share of flips of each label, its PSI below.</p><table><tr><th>stratum</th><th>n</th>"
        f"<th>films with a flip</th>{head}</tr>{''.join(rows)}</table><p class=note>{note}</p>"
    )


def _readers(found: dict[str, Any] | None) -> str:
    if not found:
        return "<p class=note>There is no feedback of readers on these films.</p>"
    head = ("label", "readings", "agrees before", "agrees after")
    rows = []
    for label, one in found.items():
        sides = [
            f"{_share(mid)} ({_share(low)} to {_share(high)})"
            for mid, low, high in (one["agrees_before"], one["agrees_after"])
        ]
        rows.append((label, one["readings"], *sides))
    return _table(head, rows)


def _plot(labels: dict[str, Any], n: int) -> str:
    """Flips of each label as shares with their intervals: gained to the right, lost to the left."""
    if not n:
        return ""
    most = max((one[side][2] for one in labels.values() for side in ("gained", "lost")), default=0)
    scale = 260 / max(most, 1e-6)
    rows = []
    for i, (label, one) in enumerate(labels.items()):
        y = 22 * i + 34
        rows.append(f'<text x="0" y="{y + 4}">{escape(label)}</text>')
        for side, sign, colour in (("lost", -1, "#2b6ca3"), ("gained", 1, "#c83c14")):
            count, low, high = one[side]
            at, left, right = (440 + sign * scale * x for x in (count / n, low, high))
            rows.append(
                f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                f'stroke-width="3" opacity=".4"/><circle cx="{at:.1f}" cy="{y}" r="4" '
                f'fill="{colour}"/>'
            )
    height = 22 * len(labels) + 44
    return (
        f'<svg viewBox="0 0 720 {height}" width="720" font-size="13" role="img" '
        f'aria-label="Flips of each label"><text x="190" y="14">lost, to {_share(most)}</text>'
        f'<text x="600" y="14">gained, to {_share(most)}</text><line x1="440" x2="440" y1="20" '
        f'y2="{height}" stroke="#999"/>{"".join(rows)}</svg>'
    )


def _figure(one: Changed, look: Look) -> str:
    told = [
        f"{escape(one.label)}: {one.before:.3f} → {one.after:.3f}",
        f"position {one.position}",
        escape(" ".join(filter(None, (one.pair.view, one.pair.sex)))),
    ]
    pictures = "".join(_picture(each) for each in (look.before, look.after))
    return f"<figure>{pictures}<figcaption>{'<br>'.join(told)}</figcaption></figure>"


def _picture(look: Picture) -> str:
    if look is None:
        return "<span class=note>The map was not kept.</span>"
    if isinstance(look, bytes):
        data = base64.b64encode(look).decode()
        return f'<img alt="film with the map" src="data:image/png;base64,{data}">'
    height, width = look.shape
    most = max(float(look.max()), 1e-6)
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="#ff7a1a" '
        f'opacity="{float(look[y, x]) / most:.2f}"/>'
        for y in range(height)
        for x in range(width)
    )
    return f'<svg viewBox="0 0 {width} {height}">{cells}</svg>'


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{lines}</table>"


def _counted(value: list[float]) -> str:
    return f"{value[0]:g} ({_share(value[1])} to {_share(value[2])})"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _psi(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
