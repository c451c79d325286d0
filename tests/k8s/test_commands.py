"""What containers run exists, and what probes ask for is answered."""

from __future__ import annotations

import re
import shutil
import sys
from http import HTTPStatus
from pathlib import Path

import httpx2
import ray
from ray.scripts.scripts import start

from pipeline.cli import _parser
from tests.k8s.conftest import OVERLAYS, containers, of_kind, pods, render
from tests.workers.conftest import running

BY_THE_IMAGE = frozenset(("cp",))
"""Commands of Debian's own that the image has; Redis' is of its own image."""


def _ours():
    for overlay in OVERLAYS:
        for name, container in containers(render(f"overlays/{overlay}")).items():
            if "command" in container and container["image"].startswith("surtitle"):
                yield f"{overlay}:{name}", [*container["command"], *container.get("args", ())]


def test_entry_points_are_installed_with_us():
    """As in the image, they stand beside the interpreter."""
    beside = Path(sys.executable).parent
    for name, (command, *_) in _ours():
        there = (beside / command).is_file() if command not in BY_THE_IMAGE else shutil.which(command)
        assert there, f"{name}: {command}"


def test_arguments_of_surtitle_are_understood():
    found = [words[1:] for _, words in _ours() if words[0] == "surtitle"]
    assert found
    for words in found:
        _parser().parse_args(words)


def test_arguments_of_ray_are_understood():
    known = {option for parameter in start.params for option in parameter.opts}
    for name, words in _ours():
        if words[:2] == ["ray", "start"]:
            given = {word.partition("=")[0] for word in words[2:]}
            assert given <= known, name
    for overlay in OVERLAYS:
        for cluster in of_kind(render(f"overlays/{overlay}"), "RayCluster"):
            spec = cluster["spec"]
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_rays_version_is_the_one_that_is_installed(manifests):
    for cluster in of_kind(manifests, "RayCluster"):
        assert cluster["spec"]["rayVersion"] == ray.__version__


def test_nodes_of_all_kinds_agree_on_ports(manifests):
    (cluster,) = of_kind(manifests, "RayCluster")
    (deployment,) = of_kind(manifests, "Deployment")
    (node,) = (c for c in deployment["spec"]["template"]["spec"]["initContainers"] if c["name"] == "ray")
    given = dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(node["args"])))
    for name, value in cluster["spec"]["headGroupSpec"]["rayStartParams"].items():
        if name.endswith("-port"):
            assert given[name] == value


async def test_probes_of_gateways_are_answered():
    paths = {
        gateway[probe]["httpGet"]["path"]
        for overlay in OVERLAYS
        for name, gateway in containers(render(f"overlays/{overlay}")).items()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if name.endswith("/gateway")
    }
    monitors = of_kind(render("overlays/production"), "ServiceMonitor")
    paths |= {endpoint["path"] for monitor in monitors for endpoint in monitor["spec"]["endpoints"]}
    assert len(paths) > 2

    async with running() as server, httpx2.AsyncClient(base_url=server.http) as asking:
        for path in paths:
            assert (await asking.get(path)).status_code == HTTPStatus.OK, path


def test_probes_of_rays_node_are_answered_without_a_token():
    """Ray's agent has a list of what it answers anybody; importing it takes what ray[default] brings."""
    agent = Path(ray.__file__).parent / "dashboard" / "http_server_agent.py"
    for name, container in containers(render("overlays/laptop")).items():
        for probe in ("startupProbe", "livenessProbe"):
            if name.endswith("/ray"):
                assert f'"{container[probe]["httpGet"]["path"]}"' in agent.read_text("utf-8")


def test_every_pod_is_looked_at(manifests):
    assert {name.rpartition("/")[2] for name in pods(manifests)} >= {"head", "encoder", "decoder"}
