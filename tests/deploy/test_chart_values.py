"""Values that contradict each other or that a cluster would refuse; and what is generated."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from support import charts
from support.charts import CHART

from hilum.settings import Settings
from tools.chart import schema, table

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
GPU = {"count": 1}


@pytest.mark.parametrize(
    ("scenario", "path", "value", "said"),
    [
        # Missing.
        ("minimal", "database.existingSecret", "", "database.existingSecret: name the Secret"),
        ("minimal", "broker.existingSecret", "", "broker.existingSecret: name the Secret"),
        ("minimal", "model.uri", "", "model.uri: name the model package"),
        ("minimal", "settings.identity", {"store": True}, "secrets.identity.existingSecret"),
        ("minimal", "settings.deidentify", {"results": True}, "secrets.deidentify.existingSecret"),
        ("minimal", "settings.prepared", {"mode": "on"}, "secrets.prepared.existingSecret"),
        ("minimal", "gateway.ingress", {"enabled": True}, "gateway.ingress.host"),
        (
            "minimal",
            "gateway.ingress",
            {"enabled": True, "host": "a.b"},
            "gateway.ingress.tlsSecret",
        ),
        ("minimal", "gateway.httpRoute", {"enabled": True}, "gateway.httpRoute.parentName"),
        ("minimal", "workers.stat.autoscaling", {"enabled": True}, "keda.prometheus.serverAddress"),
        ("minimal", "plans", {"enabled": True}, "plans.gpus: name each GPU model"),
        ("dev", "dev.password", "", "dev.password: set it"),
        # Contradictory.
        ("cpu-only", "gateway.replicas", 3, "gateway.replicas and gateway.autoscaling.enabled"),
        ("cpu-only", "gateway.autoscaling.minReplicas", 9, "minReplicas is above"),
        (
            "keda-pools",
            "workers.bulk.replicas",
            2,
            "workers.bulk.replicas and workers.bulk.autoscaling",
        ),
        ("keda-pools", "gateway.ingress", {"enabled": True}, "enable one of them"),
        ("keda-pools", "workers.bulk.autoscaling.maxReplicas", 1, None),
        (
            "keda-pools",
            "workers.stat.autoscaling",
            {"minReplicas": 9},
            "workers.stat.autoscaling.max",
        ),
        ("mig", "workers.routine.gpu.count", 1, "workers.routine.gpu.count and"),
        ("time-slicing", "workerDefaults.gpu.count", 2, "1 for a time-sliced GPU"),
        (
            "minimal",
            "workers.stat.engine",
            "tensorrt",
            "workers.stat.engine is tensorrt, which needs",
        ),
        ("minimal", "settings.engine", "onnxruntime-cuda", "which needs a GPU"),
        ("dev", "database", {"existingSecret": "x"}, "database.existingSecret and dev.enabled"),
        ("minimal", "workerDefaults.terminationGracePeriodSeconds", 125, "may take 125 seconds"),
        ("minimal", "settings.limits", {"max_decode_s": 90}, "may take 205 seconds"),
        ("minimal", "workers.bulk.settings", {"s3": {"read_timeout_s": 60}}, "workers.bulk.termin"),
        ("minimal", "gateway.terminationGracePeriodSeconds", 30, "more than 30"),
        ("minimal", "settings.worker", {"task_time_limit_s": 1800}, "below settings.worker.visib"),
        ("minimal", "workers.bulk.enabled", False, "no pool serves the queue bulk"),
        ("minimal", "workerDefaults.replicas", 0, "at least one pool must keep a pod"),
        (
            "minimal",
            "gateway.resources.limits",
            {"memory": "256Mi"},
            "gateway.resources.requests.memory",
        ),
        (
            "minimal",
            "workers.stat.resources",
            {"limits": {"cpu": "1500m"}},
            "requests.cpu: 2 is above",
        ),
        ("minimal", "serviceAccount", {"create": False, "annotations": {"a/b": "c"}}, "needs"),
        # What the API server would refuse.
        ("one-gpu", "workers.routine.gpu.count", 0.5, "workers/routine/gpu/count"),
        (
            "keda-pools",
            "campaign.timeZone",
            "Europe/Atlantis",
            '"Europe/Atlantis" is not a time zone',
        ),
        ("keda-pools", "campaign.timeZone", "Local", '"Local" is not a time zone'),
        ("keda-pools", "campaign.timeZone", "", "campaign/timeZone"),
        ("keda-pools", "campaign.schedule", "61 * * * *", "campaign/schedule"),
        ("keda-pools", "campaign.schedule", "@nightly", "campaign/schedule"),
        (
            "minimal",
            "workerDefaults.tolerations",
            [{"operator": "Exist"}],
            "tolerations/0/operator",
        ),
        ("minimal", "workerDefaults.tolerations", [{"operator": "Exists", "value": "x"}], "toler"),
        ("minimal", "workerDefaults.nodeSelector", {"a": True}, "nodeSelector"),
        ("minimal", "workerDefaults.resources.limits", {"nvidia.com/gpu": 1}, "nvidia.com/gpu"),
        ("minimal", "fullnameOverride", "Hilum", "fullnameOverride"),
        ("minimal", "priorityClasses.stat", 2_000_000_000, "priorityClasses/stat"),
        ("minimal", "model.digest", "sha256:123", "model/digest"),
        ("minimal", "logs.retentionDays", 30, "logs/retentionDays"),
        # Misspelt, in nested places too.
        ("keda-pools", "workers.bulk.autoscaling.maxReplicasCount", 3, "maxReplicasCount"),
        ("minimal", "settings.worker", {"batchsize": 4}, "batchsize"),
        ("minimal", "settings.s3", {"secret_access_key": "x"}, "secret_access_key"),
        ("minimal", "workers.stat.queues", ["urgent"], "workers/stat/queues"),
        ("minimal", "workers.Stat", {"queues": ["stat"]}, "Stat"),
        ("minimal", "workerDefaults.affinity", {"nodeAffinty": {}}, "nodeAffinty"),
        ("minimal", "networkPolicy.egress.s3.to", [{"ipBlok": {}}], "ipBlok"),
        # Of other charts, with what to use instead.
        ("minimal", "replicaCount", 2, "use gateway.replicas"),
        ("minimal", "postgresql", {"enabled": True}, "database.existingSecret"),
        ("minimal", "image", {"tag": "x"}, "use images.gateway"),
    ],
)
def test_refused_with_the_name_and_the_fix(
    scenario: str, path: str, value: Any, said: str | None
) -> None:
    given = charts.changed(charts.values(scenario), path, value)
    if said is None:  # the neighbour of a refusal
        charts.render(given)
        return
    assert said in charts.refusal(given)


def _objects(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        yield path
        for name, each in node.items():
            yield from _objects(each, (*path, name))


FREE = {"commonLabels", "nodeSelector", "podAnnotations", "annotations", "labels"}


def test_a_misspelt_value_is_refused_at_every_level() -> None:
    given = charts.changed(DEFAULTS, "settings", {"worker": {}, "s3": {}})
    paths = [path for path in _objects(given) if not path or path[-1] not in FREE]
    assert len(paths) > 60
    with helm_python.Chart.load(str(CHART)) as chart:
        for path in paths:
            wrong = copy.deepcopy(given)
            node = wrong
            for name in path:
                node = node[name]
            node["mispelt"] = 1
            with pytest.raises(helm_python.HelmError, match="mispelt"):
                chart.validate_schema(wrong)


def test_the_schema_closes_every_object() -> None:
    def look(node: Any, path: str) -> None:
        if isinstance(node, list):
            for n, each in enumerate(node):
                look(each, f"{path}/{n}")
            return
        if not isinstance(node, dict):
            return
        if node.get("type") == "object" and not path.endswith("/global"):
            closed = node.get("additionalProperties")
            assert closed is False or (isinstance(closed, dict) and closed), path
        for name, each in node.items():
            look(each, f"{path}/{name}")

    look(schema.schema(), "")


def test_the_schema_and_the_table_are_current() -> None:
    assert schema.FILE.read_text() == schema.text(), "python -m tools.chart"
    readme = table.README.read_text()
    assert readme == table.updated(readme), "python -m tools.chart"


def test_every_value_is_documented_and_has_a_default_that_the_schema_takes() -> None:
    documented = table.documented()
    for path in table.leaves(DEFAULTS):
        assert path in documented, path
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(DEFAULTS)


def test_every_setting_is_a_value_or_belongs_to_the_chart() -> None:
    known = schema.settings()["properties"]
    for name, field in Settings.model_fields.items():
        assert name in known or name in schema._OWNED
        for inner in getattr(type(field.default), "model_fields", {}):
            assert inner in known[name]["properties"] or (name, inner) in schema._OWNED_INNER


def test_the_defaults_that_the_templates_compute_with_are_the_settings() -> None:
    defaults = Settings()
    text = (CHART / "templates/_validate.tpl").read_text()
    for value, name in (
        (defaults.s3.max_attempts, "$s3.max_attempts"),
        (defaults.s3.connect_timeout_s, "$s3.connect_timeout_s"),
        (defaults.s3.read_timeout_s, "$s3.read_timeout_s"),
        (defaults.limits.max_decode_s, "$limits.max_decode_s"),
        (defaults.worker.task_time_limit_s, "$worker.task_time_limit_s"),
        (defaults.worker.visibility_timeout_s, "$worker.visibility_timeout_s"),
    ):
        assert f"default {value:g} {name}" in text


def test_a_busy_pod_is_kept_by_its_work_in_flight() -> None:
    """KEDA must not remove a pod that has as much in hand as it may."""
    in_hand = getattr(Settings().worker, "jobs_in_hand", None)
    target = DEFAULTS["workerDefaults"]["autoscaling"]["inFlightPerReplica"]
    assert in_hand is None or target < in_hand


def test_a_claim_needs_a_kubernetes_that_has_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Only linting takes a version of Kubernetes. It writes refusals of templates to stderr."""
    helm_python.lint(str(CHART), charts.values("mig"), kube_version="v1.33.0")
    assert "gpu.deviceClassName: claims (DRA) need Kubernetes 1.34" in capfd.readouterr().err
    helm_python.lint(str(CHART), charts.values("mig"), kube_version="v1.34.0")
    assert "fail" not in capfd.readouterr().err


def test_the_files_of_the_chart_are_json_and_yaml() -> None:
    json.loads((CHART / "files/dashboard.json").read_text())
    assert yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]


def test_a_default_pool_goes_by_null() -> None:
    pools = {"stat": None, "bulk": None, "routine": {"queues": ["stat", "routine", "bulk"]}}
    manifests = charts.render(charts.changed(charts.values("minimal"), "workers", pools))
    names = [each["metadata"]["name"] for each in charts.of_kind(manifests, "Deployment")]
    assert names == ["prod-hilum-gateway", "prod-hilum-worker-routine"]
