"""Every object is one that the API server takes: no field unknown, none of the wrong type."""

from __future__ import annotations

import copy
from functools import cache

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.conftest import K8S, OVERLAYS, of_kind, render
from tests.k8s.schemas import KUBERAY, OTHERS, RAY_CLUSTER, closed, kuberay

VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The first that has everything we use (the sleep of preStop, sidecars), and the latest that is known."""

KINDS = {"RayCluster": RAY_CLUSTER, **OTHERS}

_WITH_KUBERAY = pytest.mark.skipif(
    not KUBERAY.is_file(),
    reason=f"no definitions of KubeRay at {KUBERAY}: RayClusters are held against our own smaller schema",
)


@cache
def _known(text: str, version: str) -> None:
    """Validate an object; overlays share many, so each is looked at once."""
    kubernetes_validate.validate(yaml.load(text, yaml.CSafeLoader), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(manifests, version):
    own = [manifest for manifest in manifests if manifest["kind"] not in KINDS]
    assert own
    for manifest in own:
        _known(yaml.safe_dump(manifest), version)


def test_a_misspelt_field_is_found():
    manifest = copy.deepcopy(of_kind(render("overlays/laptop"), "Deployment")[0])
    manifest["spec"]["strategy"]["rollingUpdate"]["maxUnavailble"] = 0

    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailble"):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


def test_kinds_of_others_have_the_fields_that_we_know(manifests):
    for manifest in of_kind(manifests, *KINDS):
        jsonschema.validate(manifest, KINDS[manifest["kind"]])


@_WITH_KUBERAY
def test_kuberay_knows_every_field(manifests):
    for cluster in of_kind(manifests, "RayCluster"):
        jsonschema.validate(cluster, kuberay())


@_WITH_KUBERAY
@pytest.mark.parametrize(
    ("where", "value"),
    [(("maxReplica",), 3), (("template", "spec", "containers", 0, "imagePullPolice"), "Always")],
    ids=str,
)
def test_kuberay_would_find_a_misspelt_field(where, value):
    cluster = copy.deepcopy(of_kind(render("overlays/laptop"), "RayCluster")[0])
    part = cluster["spec"]["workerGroupSpecs"][0]
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value

    with pytest.raises(jsonschema.ValidationError, match=where[-1]):
        jsonschema.validate(cluster, kuberay())


def test_what_has_a_default_need_not_be_given():
    schema = closed(
        {
            "type": "object",
            "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}},
            "required": ["port", "protocol"],
        }
    )

    jsonschema.validate({"port": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"protocol": "TCP"}, schema)


def test_overlays_are_those_that_there_are():
    found = {path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml")}
    assert found == {overlay.partition("/")[0] for overlay in OVERLAYS}
