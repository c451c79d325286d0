"""Schemas of what Kubernetes does not know by itself."""

from __future__ import annotations

import gzip
from functools import cache
from typing import Any

import yaml

from tests.k8s.conftest import ROOT

Schema = dict[str, Any]

KUBERAY = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayclusters.yaml.gz"
"""The definition of RayCluster in KubeRay 1.7.0."""


@cache
def kuberay() -> Schema:
    """The schema of a RayCluster that lets nothing through that KubeRay does not know."""
    with gzip.open(KUBERAY) as file:
        definition = yaml.load(file, yaml.CSafeLoader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as JSON Schema, in which unknown fields are errors.

    What has a default need not be given: the API server fills it in before it looks.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: closed(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string") is True:
        plain["type"] = ["integer", "string"]
        plain.pop("anyOf", None)
    properties = schema.get("properties")
    if isinstance(properties, dict) and isinstance(schema.get("type"), str):
        kept = schema.get("x-kubernetes-preserve-unknown-fields")
        if "additionalProperties" not in schema and not kept:
            plain["additionalProperties"] = False
        required = schema.get("required", ())
        plain["required"] = [name for name in required if "default" not in properties.get(name, {})]
    return plain


def _object(required: dict[str, Any], **optional: Any) -> Schema:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT = {"type": "string", "minLength": 1}
_WHOLE = {"type": "integer", "minimum": 0}
_ANY_OBJECT = {"type": "object"}
_DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_SELECTOR = _object({"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}})
_START = {"type": "object", "additionalProperties": {"type": "string"}}


def _manifest(spec: Schema) -> Schema:
    return _object({"apiVersion": _TEXT, "kind": _TEXT, "metadata": _ANY_OBJECT, "spec": spec})


_SECURITY = _object(
    {
        "allowPrivilegeEscalation": {"const": False},
        "readOnlyRootFilesystem": {"const": True},
        "capabilities": _ANY_OBJECT,
    }
)

RAY_CLUSTER = _manifest(
    _object(
        {
            "rayVersion": _TEXT,
            "headGroupSpec": _object({"rayStartParams": _START, "template": _ANY_OBJECT}),
            "workerGroupSpecs": _list(
                _object(
                    {
                        "groupName": _TEXT,
                        "minReplicas": _WHOLE,
                        "maxReplicas": _WHOLE,
                        "rayStartParams": _START,
                        "template": _ANY_OBJECT,
                    },
                    replicas=_WHOLE,
                )
            ),
            "authOptions": _object({"mode": {"enum": ["token"]}}),
        },
        enableInTreeAutoscaling={"type": "boolean"},
        autoscalerOptions=_object(
            {"version": {"enum": ["v2"]}, "securityContext": _SECURITY},
            idleTimeoutSeconds=_WHOLE,
            resources=_ANY_OBJECT,
            volumeMounts=_list(_ANY_OBJECT),
        ),
        gcsFaultToleranceOptions=_object(
            {
                "redisAddress": _TEXT,
                "redisPassword": _object({"valueFrom": _object({"secretKeyRef": _ANY_OBJECT})}),
            }
        ),
    )
)
"""The floor where KubeRay's own definition is not at hand: the fields that our manifests use, no others."""

OTHERS = {
    "HTTPRoute": _manifest(
        _object(
            {
                "parentRefs": _list(_object({"name": _TEXT}, namespace=_TEXT)),
                "rules": _list(
                    _object(
                        {"backendRefs": _list(_object({"name": _TEXT, "port": _WHOLE}))},
                        matches=_list(
                            _object(
                                {
                                    "path": _object(
                                        {
                                            "type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                                            "value": _TEXT,
                                        }
                                    )
                                }
                            )
                        ),
                        timeouts=_object({}, request=_DURATION, backendRequest=_DURATION),
                    )
                ),
            },
            hostnames=_list(_TEXT),
        )
    ),
    "ServiceMonitor": _manifest(
        _object(
            {
                "selector": _SELECTOR,
                "endpoints": _list(
                    _object(
                        {"port": _TEXT, "path": _TEXT, "interval": _DURATION},
                        authorization=_object({"credentials": _object({"name": _TEXT, "key": _TEXT})}),
                    )
                ),
            }
        )
    ),
    "PodMonitor": _manifest(
        _object(
            {
                "selector": _SELECTOR,
                "podMetricsEndpoints": _list(
                    _object(
                        {"port": _TEXT, "path": _TEXT, "interval": _DURATION},
                        authorization=_object({"credentials": _object({"name": _TEXT, "key": _TEXT})}),
                    )
                ),
            }
        )
    ),
    "PrometheusRule": _manifest(
        _object(
            {
                "groups": _list(
                    _object(
                        {
                            "name": _TEXT,
                            "rules": _list(
                                _object(
                                    {
                                        "alert": _TEXT,
                                        "expr": _TEXT,
                                        "labels": _ANY_OBJECT,
                                        "annotations": _ANY_OBJECT,
                                    },
                                    **{"for": _DURATION},
                                )
                            ),
                        }
                    )
                )
            }
        )
    ),
}
"""What our manifests use of kinds whose definitions are not at hand."""
