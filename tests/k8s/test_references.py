"""Objects name each other, and what they name is there."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from tests.k8s.conftest import OVERLAYS, containers, name_of, of_kind, pods, render
from workers.settings import read_settings

MADE_BY_THE_OPERATOR = {
    "surtitle-huggingface": {"token"},
    "surtitle-keys": {"keys.json"},
    "surtitle-metrics": {"key"},
    "surtitle-redis": {"password"},
}
"""Secrets that docs/kubernetes.md has made before anything is installed, and their keys."""


def _names(manifests, kind):
    return {manifest["metadata"]["name"] for manifest in of_kind(manifests, kind)}


def _selected(selector, manifests):
    wanted = selector.get("matchLabels", selector)
    return [
        name
        for name, template in pods(manifests).items()
        if wanted.items() <= template["metadata"]["labels"].items()
    ]


def test_all_is_in_one_namespace(manifests):
    for manifest in manifests:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "surtitle", name_of(manifest)


def test_nothing_is_there_twice(manifests):
    names = [name_of(manifest) for manifest in manifests]
    assert len(names) == len(set(names))


def test_selectors_select_their_own_pods(installed):
    for manifest in of_kind(installed, "Deployment", "StatefulSet"):
        assert _selected(manifest["spec"]["selector"], installed) == [name_of(manifest)]


def test_services_and_budgets_select_pods(installed):
    for manifest in of_kind(installed, "Service", "PodDisruptionBudget"):
        selected = _selected(manifest["spec"]["selector"], installed)
        assert selected, name_of(manifest)
        assert len({name.partition("-")[0] for name in selected}) == 1, name_of(manifest)


def test_one_budget_covers_every_gateway(installed):
    (budget,) = of_kind(installed, "PodDisruptionBudget")
    assert len(_selected(budget["spec"]["selector"], installed)) == len(of_kind(installed, "Deployment"))


def test_ports_of_services_are_ports_of_containers(installed):
    for service in of_kind(installed, "Service"):
        for pod in _selected(service["spec"]["selector"], installed):
            names = _ports(pods(installed)[pod])
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def _ports(template):
    spec = template["spec"]
    every = (*spec.get("initContainers", ()), *spec["containers"])
    return {port["name"] for container in every for port in container.get("ports", ())}


def test_named_ports_of_policies_and_monitors_exist(installed):
    for policy in of_kind(installed, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            for port in (port["port"] for port in rule["ports"] if isinstance(port["port"], str)):
                for pod in _selected(policy["spec"]["podSelector"].get("matchLabels", {}), installed):
                    assert port in _ports(pods(installed)[pod]), name_of(policy)
    for monitor in of_kind(installed, "PodMonitor"):
        selected = _selected(monitor["spec"]["selector"], installed)
        assert selected
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in _ports(pods(installed)[pod]) for pod in selected)
    for monitor in of_kind(installed, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [
            s for s in of_kind(installed, "Service") if wanted <= s["metadata"].get("labels", {}).items()
        ]
        assert [service["metadata"]["name"] for service in services] == ["surtitle"]
        ports = {port["name"] for port in services[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_policies_select_pods(installed):
    """Labels that KubeRay puts on pods are taken to be there."""
    for policy in of_kind(installed, "NetworkPolicy"):
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        assert "ray.io/node-type" in labels or _selected(labels, installed), name_of(policy)


def test_probes_ask_ports_that_are_there(manifests):
    for name, container in containers(manifests).items():
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for action in ("httpGet", "tcpSocket"):
                if action in container.get(probe, {}):
                    assert container[probe][action]["port"] in ports, name


def test_mounts_have_volumes_and_volumes_are_mounted(manifests):
    for name, template in pods(manifests).items():
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        if name.startswith("StatefulSet/"):
            continue
        mounted = {
            mount["name"]
            for container in (*spec.get("initContainers", ()), *spec["containers"])
            for mount in container["volumeMounts"]
        }
        assert mounted == volumes, name


def test_what_volumes_name_is_there(installed):
    claims, maps = _names(installed, "PersistentVolumeClaim"), _names(installed, "ConfigMap")
    for name, template in pods(installed).items():
        for volume in template["spec"].get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
            if "secret" in volume:
                assert volume["secret"]["secretName"] in MADE_BY_THE_OPERATOR, name


def test_secrets_that_are_asked_for_are_made_by_someone(installed):
    known = MADE_BY_THE_OPERATOR | {name: {"auth_token"} for name in _names(installed, "RayCluster")}
    asked = [
        variable["valueFrom"]["secretKeyRef"]
        for container in containers(installed).values()
        for variable in container.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    for cluster in of_kind(installed, "RayCluster"):
        if "gcsFaultToleranceOptions" in cluster["spec"]:
            password = cluster["spec"]["gcsFaultToleranceOptions"]["redisPassword"]
            asked.append(password["valueFrom"]["secretKeyRef"])
    for monitor in of_kind(installed, "ServiceMonitor"):
        asked += [endpoint["authorization"]["credentials"] for endpoint in monitor["spec"]["endpoints"]]
    assert asked
    for reference in asked:
        assert reference["key"] in known[reference["name"]]


def test_pods_have_their_account(installed):
    accounts = _names(installed, "ServiceAccount")
    for name, template in pods(installed).items():
        if not name.endswith("/head"):  # KubeRay makes that of the head
            assert template["spec"]["serviceAccountName"] in accounts, name


def test_a_gateway_joins_the_cluster_of_its_own_release(manifests):
    (cluster,) = _names(manifests, "RayCluster")
    (deployment,) = of_kind(manifests, "Deployment")
    for container in containers((deployment,)).values():
        given = {variable["name"]: variable for variable in container["env"]}
        assert given["RAY_CLUSTER"]["value"] == cluster
        assert given["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == cluster


def test_releases_can_stand_side_by_side():
    blue, green = render("overlays/production"), render("overlays/production/green")
    assert not {name_of(one) for one in blue} & {name_of(one) for one in green}
    selectors = [of_kind(release, "Deployment")[0]["spec"]["selector"] for release in (blue, green)]
    assert selectors[0] != selectors[1]


def test_every_object_of_a_route_is_there(installed):
    services = {s["metadata"]["name"]: s["spec"]["ports"] for s in of_kind(installed, "Service")}
    for route in of_kind(installed, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["port"] in {port["port"] for port in services[backend["name"]]}


def _settings(manifests, tmp_path):
    (config,) = [m for m in of_kind(manifests, "ConfigMap") if "surtitle.toml" in m["data"]]
    path = tmp_path / "surtitle.toml"
    path.write_text(config["data"]["surtitle.toml"])
    return read_settings(path)


def test_what_gateways_share_is_on_a_node_without_gateways(manifests):
    """The ledger reserves a bit of a CPU."""
    (cluster,) = of_kind(manifests, "RayCluster")
    (deployment,) = of_kind(manifests, "Deployment")
    (node,) = (c for c in deployment["spec"]["template"]["spec"]["initContainers"] if c["name"] == "ray")
    assert "--num-cpus=0" in node["args"]
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [g["rayStartParams"]["num-cpus"] for g in cluster["spec"]["workerGroupSpecs"]] == ["1", "1"]


def test_clients_may_come_back_to_any_gateway(installed):
    for service in of_kind(installed, "Service"):
        assert "sessionAffinity" not in service["spec"], name_of(service)


def test_the_configuration_can_be_used_and_fits_the_pods(manifests, tmp_path):
    settings = _settings(manifests, tmp_path)
    (deployment,) = of_kind(manifests, "Deployment")
    gateway = containers((deployment,))["Deployment/" + deployment["metadata"]["name"] + "/gateway"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    mounts = {mount["mountPath"] for mount in gateway["volumeMounts"]}

    assert settings.port == ports["http"]
    assert settings.host == "0.0.0.0"
    if settings.model is not None:
        assert "/" + settings.model.split("/")[1] in mounts
    if settings.access.keys is not None:
        assert settings.access.keys.rpartition("/")[0] in mounts


def _group(cluster, name):
    return next(g for g in cluster["spec"]["workerGroupSpecs"] if g["groupName"] == name)


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_there_are_places_for_the_workers_of_all_gateways(manifests, stage, tmp_path):
    settings = _settings(manifests, tmp_path)
    (cluster,) = of_kind(manifests, "RayCluster")
    group = _group(cluster, stage)
    scalers = of_kind(manifests, "HorizontalPodAutoscaler")
    (deployment,) = of_kind(manifests, "Deployment")
    low = scalers[0]["spec"]["minReplicas"] if scalers else deployment["spec"]["replicas"]
    high = scalers[0]["spec"]["maxReplicas"] if scalers else deployment["spec"]["replicas"]
    each = getattr(settings, f"{stage}_workers") + settings.spares
    places = json.loads(json.loads(group["rayStartParams"]["resources"]))[f"surtitle_{stage}"]

    assert group["minReplicas"] * places == low * each
    assert group["maxReplicas"] * places >= high * each


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_threads_and_devices_are_those_of_the_pod(manifests, stage, tmp_path):
    settings = _settings(manifests, tmp_path)
    (cluster,) = of_kind(manifests, "RayCluster")
    limits = _group(cluster, stage)["template"]["spec"]["containers"][0]["resources"]["limits"]
    device = settings.encoding[0] if stage == "encoder" else settings.device

    assert settings.threads <= int(limits["cpu"])
    assert ("nvidia.com/gpu" in limits) is (device == "cuda")


def test_autoscalers_scale_what_is_there(manifests):
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in _names(manifests, "Deployment")
        (deployment,) = of_kind(manifests, "Deployment")
        assert "replicas" not in deployment["spec"]  # or each apply would undo the autoscaler's work


def test_every_metric_that_is_asked_for_is_one_that_the_server_has():
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    from workers.metrics import Metrics

    metrics = Metrics()
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    there = {family.name + suffix for family in families for suffix in ("", "_total", "_bucket", "_count")}
    manifests = render("overlays/production")
    asked = {
        name
        for rule in of_kind(manifests, "PrometheusRule")
        for group in rule["spec"]["groups"]
        for alert in group["rules"]
        for name in re.findall(r"surtitle_\w+", alert["expr"])
    } | {
        metric["pods"]["metric"]["name"]
        for scaler in of_kind(manifests, "HorizontalPodAutoscaler")
        for metric in scaler["spec"]["metrics"]
    }
    assert len(asked) > 3
    assert asked <= there


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configurations_are_toml(overlay):
    for config in of_kind(render(f"overlays/{overlay}"), "ConfigMap"):
        for name, text in config["data"].items():
            if name.endswith(".toml"):
                assert tomllib.loads(text)
