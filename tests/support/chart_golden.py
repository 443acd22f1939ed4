"""Golden renders of the chart; ``PYTHONPATH=.:tests python -m support.chart_golden``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from support import charts

GOLDEN = Path(__file__).parents[1] / "deploy/golden"


def text(manifests: list[charts.Manifest]) -> str:
    """As the files have it: sorted, and long texts (the dashboard) as their SHA-256."""
    ordered = sorted(manifests, key=charts.key_of)
    return yaml.dump_all([_shortened(each) for each in ordered], sort_keys=True, width=1000)


def _shortened(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _shortened(each) for name, each in node.items()}
    if isinstance(node, list):
        return [_shortened(each) for each in node]
    if isinstance(node, str) and len(node) > 2000:
        return "sha256:" + hashlib.sha256(node.encode()).hexdigest()
    return node


def main() -> None:
    """Write all."""
    GOLDEN.mkdir(exist_ok=True)
    for scenario in charts.SCENARIOS:
        (GOLDEN / f"{scenario}.yaml").write_text(text(charts.render(charts.values(scenario))))


if __name__ == "__main__":
    main()
