"""Compare two model packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hilum.packages.load import Package
from hilum.packages.manifest import METRICS, TARGETS

Change = tuple[Any, Any]


def differences(old: Package, new: Package) -> dict[str, Any]:
    """Compare two packages. ``manifest`` and ``metrics`` map the dotted name of every field that
    differs to its old and new value (``None`` if absent). ``files`` lists the ``added``,
    ``removed`` and ``changed`` files."""
    before, after = (p.manifest.model_dump(mode="json", exclude={"files"}) for p in (old, new))
    ours, theirs = old.manifest.files, new.manifest.files
    shared = set(ours) & set(theirs)
    return {
        "manifest": _changes(before, after),
        "files": {
            "added": sorted(set(theirs) - set(ours)),
            "removed": sorted(set(ours) - set(theirs)),
            "changed": sorted(name for name in shared if ours[name] != theirs[name]),
        },
        "metrics": _changes(_metrics(old), _metrics(new)),
    }


def same_graphs(old: Package, new: Package) -> bool:
    """Whether both packages compute the same raw outputs, so that stored raw outputs stay valid."""
    graphs = [
        {
            (v.target, v.precision, p.manifest.files[v.graph])
            for v in map(p.manifest.graph_for, TARGETS)
        }
        for p in (old, new)
    ]
    return graphs[0] == graphs[1] and old.manifest.preprocess == new.manifest.preprocess


def _changes(old: Any, new: Any) -> dict[str, Change]:
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def _metrics(package: Package) -> Any:
    try:
        found = json.loads(package.read(METRICS))
    except ValueError:
        return {}
    # The training history is long, and does not describe the model that came out.
    return (
        {key: value for key, value in found.items() if key != "history"}
        if (isinstance(found, dict))
        else {}
    )
