"""What holds for every pod, whoever wrote its manifest."""

from __future__ import annotations

import re
import tomllib

import pytest

from pipeline.config import StreamConfig
from tests.k8s.conftest import containers, name_of, of_kind, pods, render

PINNED = re.compile(r"[\w./-]+(:(?!latest)[\w.-]*\d[\w.-]*|(:[\w.-]+)?@sha256:[0-9a-f]{64})")
PREPARING = ("download", "ple")
"""Containers that end; nobody waits for them to be ready."""


def _services(manifests):
    """Containers that run on; KubeRay probes those of Ray itself, so they need none of ours."""
    return {
        name: container
        for name, container in containers(manifests).items()
        if not name.startswith(("Job/", "RayCluster/"))
    }


def _configuration(manifests):
    (text,) = (
        config["data"]["surtitle.toml"]
        for config in of_kind(manifests, "ConfigMap")
        if "surtitle.toml" in config["data"]
    )
    return tomllib.loads(text)


def test_images_have_a_version(manifests):
    for name, container in containers(manifests).items():
        assert PINNED.fullmatch(container["image"]), f"{name}: {container['image']}"


@pytest.mark.parametrize("image", ["surtitle", "surtitle:latest", "surtitle:stable", "surtitle@sha256:12"])
def test_an_image_without_a_version_would_be_found(image):
    assert not PINNED.fullmatch(image)


def test_nothing_is_privileged(manifests):
    for name, template in pods(manifests).items():
        spec = template["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume], name


def _allows_nothing(security):
    return (
        security["allowPrivilegeEscalation"] is False
        and security["readOnlyRootFilesystem"] is True
        and security["capabilities"] == {"drop": ["ALL"]}
        and not security.get("privileged", False)
    )


def test_no_container_can_gain_rights_or_write_to_its_image(manifests):
    for name, container in containers(manifests).items():
        assert _allows_nothing(container["securityContext"]), name


def test_the_autoscaler_beside_the_head_neither(manifests):
    for cluster in of_kind(manifests, "RayCluster"):
        options = cluster["spec"]["autoscalerOptions"]
        assert _allows_nothing(options["securityContext"])
        assert {mount["mountPath"] for mount in options["volumeMounts"]} == {"/tmp"}


def test_resources_are_requested_and_limited(manifests):
    for name, container in containers(manifests).items():
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), name
        assert {"cpu", "memory"} <= set(resources["limits"]), name


def test_temporary_files_have_somewhere_to_go_and_an_end(manifests):
    for name, template in pods(manifests).items():
        scratch = [
            volume["emptyDir"] for volume in template["spec"].get("volumes", ()) if "emptyDir" in volume
        ]
        assert all("sizeLimit" in volume for volume in scratch), name
    for name, container in containers(manifests).items():
        if container["image"].startswith("surtitle") and container["name"] not in PREPARING[1:]:
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], name


def test_services_are_probed(manifests):
    for name, container in _services(manifests).items():
        assert {"startupProbe", "livenessProbe"} <= set(container), name
        assert "readinessProbe" in container or container.get("restartPolicy") == "Always", name


def test_kubernetes_tokens_are_given_to_heads_alone(manifests):
    for name, template in pods(manifests).items():
        if not name.endswith("/head"):
            assert template["spec"]["automountServiceAccountToken"] is False, name


def test_secrets_are_named_and_never_written_down(manifests):
    assert not of_kind(manifests, "Secret")
    for name, container in containers(manifests).items():
        for variable in container.get("env", ()):
            if re.search("TOKEN|PASSWORD|KEY", variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}, f"{name}: {variable['name']}"


def test_rays_token_is_asked_for_everywhere(manifests):
    for cluster in of_kind(manifests, "RayCluster"):
        assert cluster["spec"]["authOptions"]["mode"] == "token"
    for name, container in containers(manifests).items():
        if name.startswith("Deployment/"):
            given = {variable["name"]: variable for variable in container["env"]}
            assert given["RAY_AUTH_MODE"]["value"] == "token", name


def test_a_gateway_has_the_time_for_the_longest_utterance(manifests):
    for deployment in of_kind(manifests, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = _configuration(manifests)["server"]["drain_seconds"]
        assert drain >= 2 * StreamConfig().window
        assert spec["terminationGracePeriodSeconds"] >= pause + drain + 15


def test_gateways_are_replaced_one_by_one_and_spread(manifests):
    for deployment in of_kind(manifests, "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {constraint["topologyKey"] for constraint in spread} >= {"kubernetes.io/hostname"}


def test_everything_is_denied_that_is_not_allowed(installed):
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(installed, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _allowed(policies, labels):
    """Who may reach the TCP ports of pods: pairs of who, and a range of ports."""
    found = set()
    for policy in policies:
        selected = policy["spec"]["podSelector"].get("matchLabels", {})
        if "Ingress" not in policy["spec"]["policyTypes"] or not selected.items() <= labels.items():
            continue
        for rule in policy["spec"].get("ingress", ()):
            for port in rule["ports"]:
                number = port["port"]
                for who in rule.get("from", [None]):
                    found.add((str(who), number, port.get("endPort", number)))
    return found


def test_nobody_but_rays_nodes_reaches_ray_and_nobody_the_dashboard(installed):
    policies = of_kind(installed, "NetworkPolicy")
    nodes = str({"podSelector": {"matchLabels": {"surtitle/ray-node": "true"}}})
    for name, template in pods(installed).items():
        if "RayCluster/" not in name:
            continue
        labels = template["metadata"]["labels"] | {"ray.io/node-type": name.rpartition("/")[2]}
        allowed = _allowed(policies, labels)
        assert {(low, high) for who, low, high in allowed if who == nodes} == {
            (6379, 6379),
            (6380, 6383),
            (10002, 10999),
        }
        assert {(low, high) for who, low, high in allowed if who != nodes} == {(8080, 8080)}
        assert not [1 for _, low, high in allowed if low <= 8265 <= high or low <= 10001 <= high]


def test_the_only_way_in_is_the_gateway(installed):
    for service in of_kind(installed, "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", name_of(service)
    for route in of_kind(installed, "HTTPRoute"):
        backends = {backend["name"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]}
        assert backends == {"surtitle"}


def test_only_the_laptop_lets_strangers_in(overlay, manifests):
    security = _configuration(manifests)["security"]
    assert security.get("allow_anonymous", False) is (overlay == "laptop")
    assert ("keys" in security) is (overlay != "laptop")


def test_the_head_survives_in_production():
    (cluster,) = of_kind(render("overlays/production"), "RayCluster")
    assert cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
