"""The JSON Schema of the chart's values: closed at every level.

The settings of hilum come from :mod:`hilum.settings`, Kubernetes' own types from the strict schemas
of kubernetes-validate. So a misspelt setting, toleration or value is refused at render.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from hilum.queue import Queue
from hilum.settings import Settings

CHART: Final = Path(__file__).parents[2] / "deploy/helm/hilum"
FILE: Final = CHART / "values.schema.json"
Schema = dict[str, Any]

# What the chart itself sets, or takes from Secrets and values of its own.
_OWNED: Final = {
    "database_url", "broker_url", "model_uri", "model_digest", "trusted_signers", "cache_dir",
}  # fmt: skip
_OWNED_INNER: Final = {
    ("s3", "access_key_id"),
    ("s3", "secret_access_key"),
    ("prepared", "secret"),
    ("deidentify", "secret"),
    ("identity", "secret"),
    ("worker", "processes"),
    ("worker", "metrics_address"),
    ("tensorrt", "engine_dir"),
    ("gateway", "host"),
    ("gateway", "port"),
    ("gateway", "metrics_address"),
}
_KUBERNETES: Final = "1.37"

STRING: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
NAME: Final[Schema] = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"}
KEY: Final[Schema] = {"type": "string", "pattern": "^[-._a-zA-Z0-9]{1,253}$"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
QUANTITY: Final[Schema] = {
    "type": "string",
    "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
}
LABELS: Final[Schema] = {
    "type": "object",
    "propertyNames": {
        "pattern": "^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    },
    "additionalProperties": {
        "type": "string",
        "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
    },
}
ANNOTATIONS: Final[Schema] = {"type": "object", "additionalProperties": STRING}
RESOURCE: Final[Schema] = {
    "type": "string",
    "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$",
}


def _cron() -> str:
    """Five fields, as the API server reads them."""
    bounds = (
        "[0-5]?[0-9]",
        "([01]?[0-9]|2[0-3])",
        "(0?[1-9]|[12][0-9]|3[01])",
        "(0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)",
        "([0-6]|SUN|MON|TUE|WED|THU|FRI|SAT)",
    )
    parts = [rf"(\*|{each}(-{each})?)(/[1-9][0-9]?)?" for each in bounds]
    return "^" + " ".join(f"{part}(,{part})*" for part in parts) + "$"


CRON: Final[Schema] = {"type": "string", "pattern": _cron()}
ZONE: Final[Schema] = {"type": "string", "pattern": "^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"}


def closed(**properties: Schema) -> Schema:
    """An object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def integer(minimum: int, maximum: int = 2_147_483_647) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def array(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    """One of the schemas that several values share."""
    return {"$ref": f"#/$defs/{name}"}


def nullable(schema: Schema) -> Schema:
    """The value, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


@cache
def _definitions() -> dict[str, Any]:
    folder = f"kubernetes-json-schema/v{_KUBERNETES}.0-local-strict"
    text = files("kubernetes_validate").joinpath(folder, "_definitions.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["$defs"]
    return found


def kubernetes(name: str) -> Schema:
    """A type of Kubernetes, such as ``io.k8s.api.core.v1.Toleration``, closed at every level."""
    found: Schema = _plain(_definitions()[name])
    return found


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(_definitions()[node["$ref"].rpartition("/")[2]])
    kept = {
        key: value
        for key, value in node.items()
        if not (key in {"description", "default", "format"} and not isinstance(value, dict))
        and not key.startswith("x-")
    }
    found = {
        key: {name: _plain(each) for name, each in value.items()}
        if key == "properties"
        else _plain(value)
        for key, value in kept.items()
    }
    # Null stands for "not given" in Kubernetes' schemas; here a value is left out.
    if isinstance(found.get("type"), list):
        found["type"] = [each for each in found["type"] if each != "null"]
        found["type"] = found["type"][0] if len(found["type"]) == 1 else found["type"]
    return found


def settings() -> Schema:
    """The settings that values may give, by section, as the TOML file has them."""
    whole = Settings.model_json_schema()
    inner = whole["$defs"]

    def field(schema: Schema) -> Schema:
        kept: Schema = {
            key: value for key, value in schema.items() if key not in {"title", "default", "format"}
        }
        if "anyOf" in kept:
            kept["anyOf"] = [field(each) for each in kept["anyOf"]]
        for key in ("items", "additionalProperties"):
            if isinstance(kept.get(key), dict):
                kept[key] = field(kept[key])
        if "prefixItems" in kept:
            kept["prefixItems"] = [field(each) for each in kept["prefixItems"]]
            kept["items"] = False
        return kept

    properties: dict[str, Schema] = {}
    for name, schema in whole["properties"].items():
        reference = schema.get("$ref", "").rpartition("/")[2]
        if name in _OWNED:
            continue
        if not reference:
            properties[name] = field(schema)
            continue
        properties[name] = closed(
            **{
                each: field(found)
                for each, found in inner[reference]["properties"].items()
                if (name, each) not in _OWNED_INNER
            }
        )
    return closed(**properties)


def _resources() -> Schema:
    amounts = closed(cpu=QUANTITY, memory=QUANTITY, **{"ephemeral-storage": QUANTITY})
    return closed(requests=amounts, limits=amounts)


def _image() -> Schema:
    tag = {"type": "string", "pattern": "^([A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$"}
    return closed(
        repository={"type": "string", "pattern": "^[a-z0-9][-a-z0-9._/:]*$"}, tag=tag, digest=DIGEST
    )


def _secret() -> Schema:
    return closed(existingSecret=NAME, key=KEY)


def _scheduling() -> dict[str, Schema]:
    return {
        "nodeSelector": LABELS,
        "tolerations": array(ref("toleration")),
        "affinity": ref("affinity"),
    }


def _toleration() -> Schema:
    found = closed(
        key=STRING,
        operator={"enum": ["Exists", "Equal"]},
        value=STRING,
        effect={"enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
        tolerationSeconds=integer(0),
    )
    exists = {"properties": {"operator": {"const": "Exists"}}, "required": ["operator"]}
    found["if"], found["then"] = exists, {"not": {"required": ["value"]}}
    return found


def _pool(*, defaults: bool) -> Schema:
    windows = closed(timezone=ZONE, start=CRON, end=CRON, replicas=integer(0, 1000))
    windows["required"] = ["timezone", "start", "end", "replicas"]
    pool = closed(
        enabled=BOOLEAN,
        replicas=nullable(integer(0, 1000)),
        processes=integer(1, 64),
        engine={"enum": ["", "auto", "tensorrt", "onnxruntime-cuda", "onnxruntime"]},
        model=closed(uri=STRING, digest=DIGEST),
        gpu=closed(
            count=integer(0, 16),
            resourceName=RESOURCE,
            deviceClassName=NAME,
            runtimeClassName=NAME,
        ),
        settings=ref("settings"),
        resources=_resources(),
        cacheSizeLimit=QUANTITY,
        terminationGracePeriodSeconds=integer(1, 86_400),
        progressDeadlineSeconds=integer(60, 86_400),
        startupSeconds=integer(30, 86_400),
        **_scheduling(),
        topologySpread=BOOLEAN,
        priorityClassName=NAME,
        podAnnotations=ANNOTATIONS,
        autoscaling=closed(
            enabled=BOOLEAN,
            minReplicas=integer(0, 1000),
            maxReplicas=integer(1, 1000),
            queueAgeSeconds=integer(1),
            inFlightPerReplica=integer(1),
            pollingInterval=integer(1, 3600),
            cooldownPeriod=integer(0, 86_400),
            stabilizationSeconds=integer(0, 3600),
            fallbackReplicas=integer(0, 1000),
            windows=array(windows),
        ),
    )
    if not defaults:
        queues = array({"enum": [each.value for each in Queue]}, uniqueItems=True)
        pool["properties"]["queues"] = queues
    return pool


def _network() -> Schema:
    peers = array(ref("peer"))
    service = closed(to=peers, ports=array(integer(1, 65_535), minItems=1))
    return closed(
        enabled=BOOLEAN,
        ingress=closed(gateway=peers, metrics=peers),
        egress=closed(
            dns=service,
            database=service,
            broker=service,
            s3=service,
            extra=array(ref("egress")),
        ),
    )


def _gateway() -> Schema:
    return closed(
        replicas=nullable(integer(0, 1000)),
        autoscaling=closed(
            enabled=BOOLEAN,
            minReplicas=integer(1, 1000),
            maxReplicas=integer(1, 1000),
            targetCPUUtilizationPercentage=integer(1, 100),
        ),
        resources=_resources(),
        terminationGracePeriodSeconds=integer(1, 86_400),
        progressDeadlineSeconds=integer(60, 86_400),
        **_scheduling(),
        topologySpread=BOOLEAN,
        priorityClassName=NAME,
        podAnnotations=ANNOTATIONS,
        service=closed(
            type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
            port=integer(1, 65_535),
            annotations=ANNOTATIONS,
        ),
        ingress=closed(
            enabled=BOOLEAN, className=NAME, host=NAME, tlsSecret=NAME, annotations=ANNOTATIONS
        ),
        httpRoute=closed(
            enabled=BOOLEAN,
            parentName=NAME,
            parentNamespace=NAME,
            sectionName=NAME,
            hostnames=array(
                {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
            ),
        ),
    )


def _plans() -> Schema:
    scheduling = _scheduling()
    gpu = closed(
        name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$"},
        nodeSelector=scheduling["nodeSelector"],
        tolerations=scheduling["tolerations"],
        resourceName=RESOURCE,
        runtimeClassName=NAME,
        maxBatch=integer(1, 1024),
    )
    gpu["required"] = ["name"]
    return closed(
        enabled=BOOLEAN,
        existingClaim=NAME,
        storageClassName=NAME,
        size=QUANTITY,
        accessMode={"enum": ["ReadWriteMany", "ReadWriteOnce"]},
        activeDeadlineSeconds=integer(60),
        gpus=array(gpu),
        resources=_resources(),
    )


def schema() -> Schema:
    """The whole schema."""
    found = closed(
        nameOverride={"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,34}[a-z0-9])?)?$"},
        fullnameOverride={"type": "string", "pattern": "^([a-z]([-a-z0-9]{0,34}[a-z0-9])?)?$"},
        commonLabels=LABELS,
        imageRegistry=STRING,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        imagePullSecrets=array(NAME),
        images=closed(gateway=_image(), worker=_image(), workerGpu=_image()),
        model=closed(
            uri=STRING, digest=DIGEST, trustedSigners=closed(existingConfigMap=NAME, key=KEY)
        ),
        database=_secret(),
        broker=_secret(),
        s3=closed(existingSecret=NAME, accessKeyIdKey=KEY, secretAccessKeyKey=KEY),
        tls=closed(caConfigMap=NAME, caKey=KEY),
        secrets=closed(identity=_secret(), deidentify=_secret(), prepared=_secret()),
        settings=ref("settings"),
        gateway=_gateway(),
        workerDefaults=_pool(defaults=True),
        workers={
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "patternProperties": {
                "^[a-z]([-a-z0-9]{0,14}[a-z0-9])?$": nullable(_pool(defaults=False))
            },
        },
        keda=closed(
            prometheus=closed(
                serverAddress={"type": "string", "pattern": "^(https?://.+)?$"},
                selector=STRING,
                authenticationRef=NAME,
            )
        ),
        migration=closed(
            enabled=BOOLEAN,
            activeDeadlineSeconds=integer(60),
            waitSeconds=integer(10),
            resources=_resources(),
        ),
        campaign=closed(
            enabled=BOOLEAN,
            schedule=CRON,
            timeZone=ZONE,
            activeDeadlineSeconds=integer(60),
            resources=_resources(),
        ),
        plans=_plans(),
        priorityClasses=closed(
            create=BOOLEAN,
            stat=integer(0, 1_000_000_000),
            routine=integer(0, 1_000_000_000),
            bulk=integer(0, 1_000_000_000),
        ),
        podDisruptionBudgets=closed(enabled=BOOLEAN),
        serviceAccount=closed(create=BOOLEAN, name=NAME, annotations=ANNOTATIONS),
        networkPolicy=_network(),
        monitoring=closed(
            serviceMonitor=BOOLEAN,
            interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
            alerts=BOOLEAN,
            dashboards=BOOLEAN,
            labels=LABELS,
        ),
        logs=closed(retentionDays=integer(183, 36_500)),
        tests=closed(enabled=BOOLEAN, gpu=BOOLEAN),
        dev=closed(
            enabled=BOOLEAN,
            password={"type": "string", "pattern": "^([A-Za-z0-9_-]{8,64})?$"},
            images=closed(postgres=STRING, valkey=STRING, seaweedfs=STRING),
        ),
        # Helm itself sets it for a chart that is used as a dependency.
        **{"global": {"type": "object"}},
        # templates/_deprecations.tpl refuses these and says what to use.
        **{
            name: {"deprecated": True}
            for name in ("replicaCount", "image", "postgresql", "redis", "minio")
        },
    )
    core, networking = "io.k8s.api.core.v1.", "io.k8s.api.networking.v1."
    shared = {
        "settings": settings(),
        "toleration": _toleration(),
        "affinity": kubernetes(core + "Affinity"),
        "peer": kubernetes(networking + "NetworkPolicyPeer"),
        "egress": kubernetes(networking + "NetworkPolicyEgressRule"),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": shared, **found}


def text() -> str:
    """As the file has it."""
    return json.dumps(schema(), indent=1, sort_keys=False) + "\n"
