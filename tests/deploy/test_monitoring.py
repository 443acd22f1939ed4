"""Alerts, dashboards and KEDA's triggers ask only for metrics and labels that the code exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from support.charts import CHART, Manifest, of_kind

import worker.metrics
from api_gateway import metrics
from hilum.db import migrate
from hilum.db.connection import Database
from hilum.errors.tree import HilumError

ROOT = Path(__file__).parents[2]
ALERTS = CHART / "files/alerts.yaml"
DASHBOARD = CHART / "files/dashboard.json"
# What Prometheus itself adds.
TARGET = {"namespace", "service", "pod", "job", "instance", "le"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Each series that the gateway or a worker exports, with its labels."""
    found: dict[str, set[str]] = {}
    url = f"sqlite:///{tmp_path_factory.mktemp('metrics') / 'hilum.db'}"
    migrate.upgrade(url)
    assert worker.metrics
    with Database(url) as database:
        for family in metrics.QueueCollector(database).collect():
            found[family.name] = set(getattr(family, "_labelnames", ()))
    for registry in (REGISTRY, metrics._REGISTRY):
        for collector in registry._collector_to_names:
            labels = set(getattr(collector, "_labelnames", ()))
            for name in registry._collector_to_names[collector]:
                if name.startswith("hilum_"):
                    found[name] = labels
    return found


def _assert_known(expression: str, exported: dict[str, set[str]]) -> None:
    used = re.findall(r"\b(hilum_\w+)(?:\{([^}]*)\})?", expression)
    assert used, expression
    labels: set[str] = set()
    for name, selector in used:
        assert name in exported, f"{name} is exported by nothing"
        matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert matched <= exported[name] | TARGET, expression
        labels |= exported[name]
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert {each.strip() for each in grouped.split(",")} <= labels | TARGET, expression
    assert expression.count("(") == expression.count(")")


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts(exported: dict[str, set[str]]) -> None:
    names = [rule["alert"] for rule in _rules()]
    assert len(names) == len(set(names)) >= 10
    for rule in _rules():
        _assert_known(rule["expr"], exported)
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")


def test_the_runbook_of_each_alert_is_there() -> None:
    for rule in _rules():
        page, anchor = rule["annotations"]["runbook"].split("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
        assert anchor in {
            re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings
        }


def test_promtool() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the expressions are checked above")
    done = subprocess.run(
        [promtool, "check", "rules", ALERTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_dashboard(exported: dict[str, set[str]]) -> None:
    board = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 10
    for panel in board["panels"]:
        for target in panel["targets"]:
            _assert_known(target["expr"], exported)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert shown <= {each.strip() for group in grouped for each in group.split(",")}


def test_triggers_of_keda(keda_pools: list[Manifest], exported: dict[str, set[str]]) -> None:
    digest = "0123456789abcdef"
    for scaled in of_kind(keda_pools, "ScaledObject"):
        age, in_flight = (each["metadata"] for each in scaled["spec"]["triggers"][:2])
        for trigger in (age, in_flight):
            _assert_known(trigger["query"], exported)
            assert trigger["ignoreNullValues"] == "false"  # no answer is not zero
            assert all(isinstance(value, str) for value in trigger.values())
        assert "hilum_queue_age_seconds" in age["query"]
        assert "hilum_queue_in_flight" in in_flight["query"]
        if scaled["metadata"]["name"].endswith("-stat"):
            assert 'class=~"stat"' in age["query"]
            assert f'model=~"any|{digest}"' in age["query"]
        if scaled["metadata"]["name"].endswith("-next"):
            assert 'model=~"any|fedcba9876543210"' in age["query"]


def test_every_code_that_an_alert_names_exists() -> None:
    codes = {"scored"} | {each.code for each in _subclasses(HilumError)}
    for rule in _rules():
        for code in re.findall(r'code!?="([^"]+)"', rule["expr"]):
            assert code in codes


def _subclasses(cls: type[HilumError]) -> set[type[HilumError]]:
    return {cls} | {each for sub in cls.__subclasses__() for each in _subclasses(sub)}
