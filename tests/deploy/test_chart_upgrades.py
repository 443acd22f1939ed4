"""Golden renders, and upgrades: what the API server does not allow to change stays as it is.

`PYTHONPATH=.:tests python -m support.chart_golden` writes the golden renders anew. `baseline/` is
the first release of the chart; it is never written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import chart_golden, charts
from support.charts import Manifest

HERE = Path(__file__).parent


@pytest.mark.parametrize("scenario", charts.SCENARIOS)
def test_golden(scenario: str) -> None:
    expected = (HERE / f"golden/{scenario}.yaml").read_text()
    found = chart_golden.text(charts.render(charts.values(scenario)))
    assert found == expected, "python -m support.chart_golden, and look at the difference"


def immutable(manifest: Manifest) -> Any:
    """What an update of the object must not change."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Deployment":
            return spec["selector"]
        case "Job":
            return {key: spec.get(key) for key in ("selector", "template", "completions")}
        case "PersistentVolumeClaim":
            return {key: value for key, value in spec.items() if key != "resources"}
        case "ResourceClaimTemplate":
            return spec
        case "PriorityClass":
            return manifest["value"], manifest["preemptionPolicy"]
        case "Service":
            return spec.get("clusterIP")
        case "Secret":
            return manifest.get("type")
    return None


def assert_upgradable(before: list[Manifest], after: list[Manifest]) -> None:
    old = {charts.key_of(each): each for each in before}
    for manifest in after:
        key = charts.key_of(manifest)
        if key in old and "helm.sh/hook" not in manifest["metadata"].get("annotations", {}):
            assert immutable(manifest) == immutable(old[key]), key


@pytest.mark.parametrize("scenario", ["minimal", "one-gpu", "keda-pools"])
def test_from_the_first_release(scenario: str) -> None:
    before = charts.load((HERE / f"baseline/{scenario}.yaml").read_text())
    after = charts.render(charts.values(scenario), upgrade_to=2)
    assert_upgradable(before, after)
    kept = {key for key in map(charts.key_of, before) if key.startswith(("Deployment", "Service/"))}
    assert kept <= set(map(charts.key_of, after)), "a workload would be removed and made anew"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("images.gateway.tag", "9.9.9"),
        ("images.workerGpu.digest", "sha256:" + "9" * 64),
        ("migration.resources.limits.memory", "1Gi"),
        ("workers.stat.autoscaling", {"enabled": False}),
        ("workers.extra", {"queues": ["bulk"]}),
        ("workers.bulk", {"enabled": False}),
        ("workers.next.model.uri", "s3://models/hilum/another"),
        ("workers.stat.gpu", {"count": 0, "deviceClassName": "gpu.example.com"}),
        ("settings.worker", {"batch_size": 4}),
        ("settings.engine", "auto"),
        ("priorityClasses.stat", 7),
        ("plans.size", "40Gi"),
        ("plans.gpus", [{"name": "l4", "maxBatch": 4}]),
        ("commonLabels", {"team": "radiology"}),
        ("tests.gpu", True),
    ],
)
def test_a_change_leaves_immutable_fields_alone(
    keda_pools: list[Manifest], path: str, value: Any
) -> None:
    given = charts.values("keda-pools")
    if path == "workers.bulk":
        given = charts.changed(given, "workers.next.queues", ["bulk"])
    after = charts.render(charts.changed(given, path, value), upgrade_to=2)
    assert_upgradable(keda_pools, after)


def test_each_revision_migrates_by_a_job_of_its_own(keda_pools: list[Manifest]) -> None:
    """Helm removes the one before; a Job of the same name could not be run again."""
    after = charts.render(charts.values("keda-pools"), upgrade_to=2)
    names = [
        {key for key in map(charts.key_of, each) if "-migrate-" in key}
        for each in (keda_pools, after)
    ]
    assert len(names[0]) == len(names[1]) == 1
    assert not names[0] & names[1]
    plans = [
        {key for key in map(charts.key_of, each) if "-plan-" in key} for each in (keda_pools, after)
    ]
    assert plans[0] == plans[1], "an unchanged plan is not built again"


def test_more_replicas_change_replicas_alone() -> None:
    before = charts.render(charts.values("minimal"))
    after = charts.render(charts.changed(charts.values("minimal"), "workers.routine.replicas", 5))
    different = [a for a, b in zip(after, before, strict=True) if a != b]
    (deployment,) = different
    assert deployment["spec"].pop("replicas") == 5
    old = next(each for each in before if charts.key_of(each) == charts.key_of(deployment))
    assert old["spec"].pop("replicas") == 1
    assert deployment == old


def test_the_check_can_fail() -> None:
    before = charts.render(charts.values("minimal"))
    after = charts.render(
        charts.changed(charts.values("minimal"), "nameOverride", "other"), name="prod-hilum"
    )
    same_names = [{**each, "metadata": {**each["metadata"]}} for each in after]
    for each in same_names:
        each["metadata"]["name"] = each["metadata"]["name"].replace(
            "prod-hilum-other", "prod-hilum"
        )
    with pytest.raises(AssertionError, match="Deployment"):
        assert_upgradable(before, same_names)
