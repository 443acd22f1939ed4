"""Every scenario of the chart: what schemas say, and what only a cluster would say otherwise."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import helm_python
import jsonschema
import pytest
import yaml
from fastapi.testclient import TestClient
from support import charts
from support.charts import CHART, Container, Manifest

from api_gateway.app import create_app
from hilum import __version__
from hilum.cli import main
from hilum.settings import Settings, load

KEDA = json.loads(Path(__file__).with_name("keda-scaledobject.schema.json").read_text())
# Kinds of operators, whose schemas are not Kubernetes' own.
OPERATORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
NOT_OURS = {"AWS_CA_BUNDLE", "PGSSLROOTCERT"}


@pytest.mark.parametrize("scenario", charts.SCENARIOS)
def test_it_lints(scenario: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = helm_python.lint(str(CHART), charts.values(scenario), strict=True)
    assert "fail" not in capfd.readouterr().err
    assert found["errors"] == []
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


def test_the_version_is_that_of_the_code() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("version", charts.KUBERNETES)
def test_strict_schemas_of_kubernetes(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] in OPERATORS | {"ScaledObject"}:
            continue
        claims = "resourceClaim" in json.dumps(manifest) or "ClaimTemplate" in manifest["kind"]
        if claims and version != charts.KUBERNETES[-1]:
            continue  # claims (DRA) are stable since 1.34; the chart refuses them before
        assert charts.schema_errors(manifest, version) == [], charts.key_of(manifest)


def test_the_schema_of_keda(keda_pools: list[Manifest]) -> None:
    closed = _close(KEDA)
    scaled = charts.of_kind(keda_pools, "ScaledObject")
    assert len(scaled) == 4
    for manifest in scaled:
        jsonschema.Draft7Validator(closed).validate(manifest)
        wrong = {**manifest, "spec": {**manifest["spec"], "maxReplicasCount": 3}}
        with pytest.raises(jsonschema.ValidationError, match="maxReplicasCount"):
            jsonschema.Draft7Validator(closed).validate(wrong)


def _close(schema: Any) -> Any:
    """The CRD forbids no unknown fields."""
    if isinstance(schema, list):
        return [_close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _close(each) for name, each in schema.items()}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    return found


def test_names_and_labels_are_ones_that_the_server_takes(manifests: list[Manifest]) -> None:
    label = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
    longest = {"CronJob": 52, "Service": 63, "Job": 63, "Deployment": 63, "Pod": 63}
    for manifest in manifests:
        meta = manifest["metadata"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", meta["name"])
        assert len(meta["name"]) <= longest.get(manifest["kind"], 253)
        assert meta.get("namespace", charts.NAMESPACE) == charts.NAMESPACE
        assert ("namespace" in meta) == (manifest["kind"] != "PriorityClass")
        pod = charts.pod_of(manifest)
        for labels in (meta["labels"], (pod or manifest)["metadata"]["labels"]):
            assert all(label.fullmatch(value) for value in labels.values()), labels
    keys = Counter(charts.key_of(manifest) for manifest in manifests)
    assert [key for key, times in keys.items() if times > 1] == []


def test_the_longest_names_fit() -> None:
    given = charts.changed(
        charts.values("keda-pools"), "workers.a-long-name-16ch", {"queues": ["bulk"]}
    )
    given = charts.changed(given, "workers.a-long-name-16ch.autoscaling", {"enabled": False})
    given = charts.changed(given, "plans.gpus", [{"name": "nvidia-h200x"}])
    test_names_and_labels_are_ones_that_the_server_takes(charts.render(given, name="a" * 53))


def test_lists_that_are_maps_have_each_key_once(manifests: list[Manifest]) -> None:
    """Helm applies on the server's side, which refuses a name that comes twice."""
    for container in charts.containers(manifests):
        body = container.body
        for key in ("env", "ports", "volumeMounts"):
            by = "mountPath" if key == "volumeMounts" else "name"
            names = Counter(each[by] for each in body.get(key, ()))
            assert [name for name, times in names.items() if times > 1] == [], container.where
    for _, pod in charts.pods(manifests):
        names = Counter(each["name"] for each in pod["spec"].get("volumes", ()))
        assert all(times == 1 for times in names.values())


def test_what_a_pod_refers_to_is_in_it(manifests: list[Manifest]) -> None:
    claims = {
        each["metadata"]["name"] for each in charts.of_kind(manifests, "ResourceClaimTemplate")
    }
    accounts = {each["metadata"]["name"] for each in charts.of_kind(manifests, "ServiceAccount")}
    configs = {each["metadata"]["name"] for each in charts.of_kind(manifests, "ConfigMap")}
    classes = {each["metadata"]["name"] for each in charts.of_kind(manifests, "PriorityClass")}
    for container in charts.containers(manifests):
        spec = container.pod["spec"]
        volumes = {each["name"] for each in spec.get("volumes", ())}
        assert {each["name"] for each in container.body.get("volumeMounts", ())} <= volumes
        named = {each["name"] for each in spec.get("resourceClaims", ())}
        assert {each["name"] for each in container.body["resources"].get("claims", ())} <= named
        assert {
            each["resourceClaimTemplateName"] for each in spec.get("resourceClaims", ())
        } <= claims
        assert spec["serviceAccountName"] in accounts
        assert {
            each["configMapRef"]["name"] for each in container.body.get("envFrom", ())
        } <= configs
        assert spec.get("priorityClassName") in {None, *classes}


def test_selectors_choose_exactly_their_pods(manifests: list[Manifest]) -> None:
    templates = [(each, pod["metadata"]["labels"]) for each, pod in charts.pods(manifests)]

    def chosen(selector: dict[str, str]) -> set[str]:
        return {
            charts.key_of(manifest)
            for manifest, labels in templates
            if selector.items() <= labels.items()
        }

    for deployment in charts.of_kind(manifests, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert chosen(selector) == {charts.key_of(deployment)}
        # What changes with a version must not be in a selector.
        assert not set(selector) & {"helm.sh/chart", "app.kubernetes.io/version"}
        assert "app.kubernetes.io/managed-by" not in selector
    for service in charts.of_kind(manifests, "Service"):
        (key,) = chosen(service["spec"]["selector"])
        pod = next(pod for each, pod in charts.pods(manifests) if charts.key_of(each) == key)
        ports = {port["name"] for body in pod["spec"]["containers"] for port in body["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in charts.of_kind(manifests, "PodDisruptionBudget"):
        assert len(chosen(budget["spec"]["selector"]["matchLabels"])) == 1
        assert budget["spec"]["maxUnavailable"] == 1  # minAvailable would block every drain
    deny = [
        each for each in manifests
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("default-deny")
    ]  # fmt: skip
    assert all(
        chosen(each["spec"]["podSelector"]["matchLabels"])
        == {charts.key_of(m) for m, _ in templates}
        for each in deny
    )
    assert len(deny) == 1


def test_no_replica_count_beside_an_autoscaler(manifests: list[Manifest]) -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in charts.of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    }
    deployments = {
        each["metadata"]["name"]: each for each in charts.of_kind(manifests, "Deployment")
    }
    assert scaled <= set(deployments)
    for name, deployment in deployments.items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled)
        update = deployment["spec"]["strategy"].get("rollingUpdate", {"maxSurge": 1})
        assert update.get("maxSurge") or update.get("maxUnavailable")
    for each in charts.of_kind(manifests, "HorizontalPodAutoscaler"):
        assert each["spec"]["minReplicas"] <= each["spec"]["maxReplicas"]
    for each in charts.of_kind(manifests, "ScaledObject"):
        spec = each["spec"]
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
        # KEDA takes a fallback only with averages.
        prometheus = [trigger for trigger in spec["triggers"] if trigger["type"] == "prometheus"]
        assert {trigger["metricType"] for trigger in prometheus} == {"AverageValue"}
        assert [trigger["name"] for trigger in prometheus] == ["queue-age", "in-flight"]


def test_pod_security_restricted(manifests: list[Manifest]) -> None:
    """Pod Security Standards, profile "restricted" of Kubernetes 1.37."""
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    kinds.add("persistentVolumeClaim")
    for manifest, pod in charts.pods(manifests):
        spec, where = pod["spec"], charts.key_of(manifest)
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), where
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["runAsUser"] > 0, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert spec["enableServiceLinks"] is False, where
        for volume in spec.get("volumes", ()):
            assert len(set(volume) & kinds) == 1, where
            assert set(volume) <= kinds | {"name"}, where
    for container in charts.containers(manifests):
        context = container.body["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, container.where
        assert context["capabilities"] == {"drop": ["ALL"]}, container.where
        assert context["readOnlyRootFilesystem"] is True, container.where
        assert "privileged" not in context
        assert all("hostPort" not in port for port in container.body.get("ports", ()))
    for account in charts.of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _amount(quantity: str | int) -> float:
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity))
    assert found, quantity
    return float(found[1]) * UNITS[found[2]]


def test_resources(manifests: list[Manifest]) -> None:
    for manifest, pod in charts.pods(manifests):
        with_gpu = 0
        for body in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            resources = body["resources"]
            requests, limits = resources["requests"], resources["limits"]
            assert {"cpu", "memory"} <= set(requests), charts.key_of(manifest)
            assert "memory" in limits, charts.key_of(manifest)
            for name, limit in limits.items():
                assert _amount(requests.get(name, limit)) <= _amount(limit)
            extended = {name for name in limits if "/" in name}
            with_gpu += bool(extended) or "claims" in resources
            for name in extended:
                assert isinstance(limits[name], int)
                assert requests[name] == limits[name]
        assert with_gpu <= 1, "one GPU container a pod"


def _environment(container: Container, manifests: list[Manifest]) -> dict[str, str]:
    """The variables of a container; a secret gets a value of its kind."""
    secret = {
        "HILUM_DATABASE_URL": "postgresql://hilum@db/hilum",
        "HILUM_BROKER_URL": "rediss://broker:6379/0",
    }
    found: dict[str, str] = {}
    configs = {each["metadata"]["name"]: each for each in charts.of_kind(manifests, "ConfigMap")}
    for each in container.body.get("envFrom", ()):
        found |= configs[each["configMapRef"]["name"]]["data"]
    for each in container.body.get("env", ()):
        found[each["name"]] = (
            each["value"] if "value" in each else secret.get(each["name"], "s" * 40)
        )
    return found


def _known_names() -> set[str]:
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(f"HILUM_{name.upper()}")
        inner = getattr(type(field.default), "model_fields", {})
        names |= {f"HILUM_{name}__{each}".upper() for each in inner}
    return names


def _ours(manifests: list[Manifest]) -> Iterator[Container]:
    return (each for each in charts.containers(manifests) if charts.is_hilum(each))


def _settings(container: Container, manifests: list[Manifest]) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HILUM_")]:
            patch.delenv(name)
        for name, value in _environment(container, manifests).items():
            patch.setenv(name, value)
        return load()


def test_every_variable_is_a_setting_and_its_value_is_valid(manifests: list[Manifest]) -> None:
    known = _known_names()
    for container in _ours(manifests):
        names = set(_environment(container, manifests))
        assert names - known <= NOT_OURS, container.where
        if names:
            assert _settings(container, manifests).database_url.startswith("postgresql")


def test_numbers_arrive_as_they_were_given() -> None:
    manifests = charts.render(charts.values("cpu-only"))
    (worker,) = (each for each in _ours(manifests) if each.where.endswith("worker-routine:worker"))
    found = _settings(worker, manifests)
    assert found.limits.max_object_bytes == 268_435_456
    assert found.worker.decode_threads == 4
    assert found.gateway.tenant_uri_prefixes == {"north": ("s3://pacs/north",)}
    assert found.deidentify.regions == ((0.0, 0.0, 0.3, 0.1),)


def test_a_pool_without_a_gpu_looks_for_none(manifests: list[Manifest]) -> None:
    """Otherwise the alert on idle GPUs would name each of its workers."""
    for container in _ours(manifests):
        if container.body["name"] != "worker":
            continue
        resources = container.body["resources"]
        gpu = "claims" in resources or any("/" in name for name in resources["limits"])
        engine = _settings(container, manifests).engine
        assert (engine == "onnxruntime") != gpu, container.where


def test_every_command_parses(manifests: list[Manifest]) -> None:
    for container in _ours(manifests):
        body = container.body
        if body.get("command", ["hilum"])[0] == "python":
            compile(body["args"][0], container.where, "exec")
            continue
        assert "command" not in body, "the image's entry point is `hilum`"
        arguments = [str(each) for each in body["args"]]
        context = click.Context(main, info_name="hilum")
        command: click.Command | None = main
        while isinstance(command, click.Group):
            name = arguments.pop(0)
            command = command.get_command(context, name)
            assert command, f"{container.where}: there is no command {name}"
            if not isinstance(command, click.Group):
                context = command.make_context(name, arguments, parent=context)


@cache
def _answer(path: str) -> tuple[int, str]:
    """Status and media type of the real application, whose database is not migrated."""
    with TemporaryDirectory() as folder:
        app = create_app(Settings(database_url=f"sqlite:///{folder}/x.db"))
        with TestClient(app) as client:
            answer = client.get(path)
    return answer.status_code, answer.headers["content-type"]


def test_probes_hit_what_answers(manifests: list[Manifest]) -> None:
    for container in _ours(manifests):
        body = container.body
        ports = {port["name"]: port["containerPort"] for port in body.get("ports", ())}
        keys = ("startupProbe", "livenessProbe", "readinessProbe")
        probes = [body[key] for key in keys if key in body]
        assert len(probes) == (3 if body["name"] in {"gateway", "worker"} else 0), container.where
        for probe in probes:
            if "exec" in probe:
                assert probe["exec"]["command"][:3] == ["python", "-m", "worker.ready"]
                assert int(probe["exec"]["command"][3]) == ports["metrics"]
                assert probe["exec"]["command"][4] == body["args"][-1]  # of --processes
            elif probe["httpGet"]["port"] == "http":
                assert ports["http"] == int(body["args"][-1])
                status, kind = _answer(probe["httpGet"]["path"])
                assert kind == "application/json"
                assert status == (200 if probe["httpGet"]["path"] == "/healthz" else 503)
            else:
                assert probe["httpGet"]["path"] == "/metrics"
                given = _environment(container, manifests)
                assert given["HILUM_WORKER__METRICS_ADDRESS"].endswith(f":{ports['metrics']}")


def test_grace_is_longer_than_what_is_in_hand(manifests: list[Manifest]) -> None:
    for manifest in charts.of_kind(manifests, "Deployment"):
        pod = charts.pod_of(manifest)
        assert pod
        for container in _ours([manifest]):
            grace = pod["spec"]["terminationGracePeriodSeconds"]
            if container.body["name"] == "worker":
                found = _settings(container, manifests)
                one_get = found.s3.connect_timeout_s + found.s3.read_timeout_s
                assert grace > found.s3.max_attempts * one_get + found.limits.max_decode_s + 10
            if container.body["name"] == "gateway":
                assert grace > 30 + 5  # uvicorn's and that of preStop


def test_schema_first(manifests: list[Manifest]) -> None:
    """What uses SQL waits for the migration, which is a plain Job: a hook would wait for itself."""
    jobs = charts.of_kind(manifests, "Job")
    (migration,) = (each for each in jobs if "-migrate-" in each["metadata"]["name"])
    assert migration["spec"]["template"]["spec"]["containers"][0]["args"] == ["db", "upgrade"]
    for manifest in manifests:
        hooks = manifest["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert hooks in {None, "test"}
    for manifest in charts.of_kind(manifests, "Deployment", "CronJob"):
        if "-dev-" in manifest["metadata"]["name"]:
            continue
        pod = charts.pod_of(manifest)
        assert pod
        first = pod["spec"]["initContainers"][0]
        assert first["args"][:2] == ["db", "wait"]


def test_network_policies_open_only_ports_that_are_there(manifests: list[Manifest]) -> None:
    ports = {
        port["containerPort"]
        for container in charts.containers(manifests)
        for port in container.body.get("ports", ())
    }
    for policy in charts.of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            assert {port["port"] for port in rule.get("ports", ())} <= ports
        assert "Egress" not in policy["spec"]["policyTypes"] or policy["spec"]["podSelector"]
        for rule in policy["spec"].get("egress", ()):
            assert rule, "an empty rule allows everything"


def test_logs_are_kept_for_six_months(manifests: list[Manifest]) -> None:
    for manifest, pod in charts.pods(manifests):
        kept = pod["metadata"]["annotations"]["hilum.dev/log-retention-days"]
        assert int(kept) >= 183, charts.key_of(manifest)


def test_secrets_come_from_secrets_only(manifests: list[Manifest]) -> None:
    made = {each["metadata"]["name"] for each in charts.of_kind(manifests, "Secret")}
    assert all(name.endswith("-dev") for name in made)
    for container in charts.containers(manifests):
        for each in container.body.get("env", ()):
            if re.search(r"SECRET|PASSWORD|_KEY|(DATABASE|BROKER)_URL", each["name"]):
                assert "secretKeyRef" in each["valueFrom"], container.where


def test_notes_name_the_next_command() -> None:
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(
            charts.values("minimal"), name=charts.RELEASE, namespace=charts.NAMESPACE
        )
    notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    assert "helm -n xray test prod" in notes
    assert "deployment/prod-hilum-gateway" in notes
    assert "model.digest is not set" in notes
