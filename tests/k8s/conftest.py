"""Rendered manifests of every overlay."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from typing import Any

import pytest
import yaml

import workers.placement  # noqa: F401 - before Ray, which reads its environment when it is imported
from tests.k8s.machines import ROOT, Machines

K8S = ROOT / "k8s"
OVERLAYS = ("laptop", "gpu", "production", "production/green")

Manifest = dict[str, Any]


def _renderer() -> list[str] | None:
    """Kustomize, from where ``make k8s-check`` puts kubectl, or from the path."""
    here = ROOT / ".make" / "kubectl"
    if here.is_file():
        return [str(here), "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@cache
def render(overlay: str) -> tuple[Manifest, ...]:
    """The objects of an overlay."""
    renderer = _renderer()
    if renderer is None:
        missing = "neither kustomize nor kubectl is installed; `make k8s-check` fetches one"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run(
        [*renderer, str(K8S / overlay)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(filter(None, yaml.load_all(done.stdout, yaml.CSafeLoader)))


@pytest.fixture(name="overlay", params=OVERLAYS)
def _overlay(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(name="manifests")
def _manifests(overlay: str) -> tuple[Manifest, ...]:
    """The objects of one overlay; of a release alone, besides them those that it is put beside."""
    return render(f"overlays/{overlay}")


@pytest.fixture(name="installed")
def _installed(overlay: str, manifests: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """All that is in the cluster once the overlay is applied."""
    if overlay != "production/green":
        return manifests
    return (*manifests, *render("overlays/production"))


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pods(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Templates of all pods that come of manifests, by the name of what makes them."""
    templates = {
        name_of(manifest): manifest["spec"]["template"]
        for manifest in of_kind(manifests, "Deployment", "StatefulSet", "Job")
    }
    for cluster in of_kind(manifests, "RayCluster"):
        templates[f"{name_of(cluster)}/head"] = cluster["spec"]["headGroupSpec"]["template"]
        for group in cluster["spec"]["workerGroupSpecs"]:
            templates[f"{name_of(cluster)}/{group['groupName']}"] = group["template"]
    return templates


def containers(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """All containers, those that only prepare included, by pod and name."""
    return {
        f"{pod}/{container['name']}": container
        for pod, template in pods(manifests).items()
        for container in (
            *template["spec"].get("initContainers", ()),
            *template["spec"]["containers"],
        )
    }


@pytest.fixture(name="machines")
def _machines():
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need `ip` (Debian and Ubuntu: apt-get install iproute2)")
    with contextlib.ExitStack() as stack:
        try:
            machines = stack.enter_context(Machines(4))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
        yield machines


@pytest.fixture(name="short_path")
def _short_path():
    """The paths of Ray's sockets may have 107 letters."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield folder
    shutil.rmtree(folder)
