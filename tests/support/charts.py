"""Render the chart by Helm's own library, and the parts of manifests that the tests look at."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import yaml
from referencing import Registry, Resource

CHART = Path(__file__).parents[2] / "deploy/helm/hilum"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*.yaml"))
# The oldest that Chart.yaml allows, and the newest whose schemas kubernetes-validate has.
KUBERNETES = ("1.30", "1.37")
RELEASE, NAMESPACE = "prod", "xray"

Manifest = dict[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Container:
    """A container with the pod that it is in."""

    manifest: Manifest
    pod: dict[str, Any]
    body: dict[str, Any]
    init: bool

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.manifest['kind']}/{self.manifest['metadata']['name']}:{self.body['name']}"


def values(scenario: str) -> dict[str, Any]:
    """The values of a scenario."""
    found: dict[str, Any] = load((CHART / f"ci/{scenario}-values.yaml").read_text())[0]
    return found


def load(text: str) -> list[Any]:
    """The documents of a YAML text that are not empty."""
    return [each for each in yaml.load_all(text, Loader=_LOADER) if each]


def render(
    given: dict[str, Any], *, name: str = RELEASE, upgrade_to: int | None = None
) -> list[Manifest]:
    """All manifests, those of ``helm test`` too: of an installation, or of this revision of an
    upgrade. Raises what Helm raises."""
    with helm_python.Chart.load(str(CHART)) as opened:
        texts = opened.render(
            given,
            name=name,
            namespace=NAMESPACE,
            revision=upgrade_to or 1,
            is_install=upgrade_to is None,
            is_upgrade=upgrade_to is not None,
        )
    return [
        manifest
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for manifest in load(text)
    ]


def refusal(given: dict[str, Any]) -> str:
    """What Helm says about values that it refuses."""
    try:
        render(given)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError("Helm rendered these values")


def changed(given: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The values with one more, such as ``workers.routine.gpu.count``."""
    found = copy.deepcopy(given)
    node = found
    *parents, last = path.split(".")
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return found


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Those of one of the kinds."""
    return [each for each in manifests if each["kind"] in kinds]


def pod_of(manifest: Manifest) -> dict[str, Any] | None:
    """The pod template of a workload, with its ``metadata`` and ``spec``."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Pod":
        return manifest
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, Any] | None = spec.get("template")
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """Each workload and its pod template."""
    for manifest in manifests:
        pod = pod_of(manifest)
        if pod is not None:
            yield manifest, pod


def containers(manifests: list[Manifest]) -> Iterator[Container]:
    """All containers."""
    for manifest, pod in pods(manifests):
        for key in ("initContainers", "containers"):
            for body in pod["spec"].get(key, ()):
                yield Container(manifest, pod, body, key == "initContainers")


def is_hilum(container: Container) -> bool:
    """Whether it runs an image of ours, and not a service of the `dev` profile."""
    return "hilum/" in container.body["image"]


def key_of(manifest: Manifest) -> str:
    """Kind, namespace and name."""
    meta = manifest["metadata"]
    return f"{manifest['kind']}/{meta.get('namespace', '')}/{meta['name']}"


@cache
def _folder(version: str) -> Any:
    root = files("kubernetes_validate").joinpath("kubernetes-json-schema")
    return root.joinpath(f"v{version}.0-local-strict")


@cache
def _registry(version: str) -> Registry:
    definitions = json.loads(_folder(version).joinpath("_definitions.json").read_text())
    return Resource.from_contents(definitions) @ Registry()


@cache
def _validator(version: str, file: str) -> Any:
    schema = json.loads(_folder(version).joinpath(file).read_text())
    registry = Resource.from_contents(schema) @ _registry(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def schema_errors(manifest: Manifest, version: str) -> list[str]:
    """What the strict schema of this Kubernetes version says; the kinds of others have none."""
    group, _, api = manifest["apiVersion"].rpartition("/")
    file = f"{manifest['kind']}-{group.split('.')[0] + '-' if group else ''}{api}.json".lower()
    if not _folder(version).joinpath(file).is_file():
        return [f"there is no {manifest['apiVersion']} {manifest['kind']}"]
    found = _validator(version, file).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]
