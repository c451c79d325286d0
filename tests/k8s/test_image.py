"""The image: what it is made of and who runs in it. Nothing is built here."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.k8s.conftest import K8S, OVERLAYS, ROOT, containers, render


def _stages():
    """Instructions of each stage, by its name, continued lines joined."""
    text = (K8S / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages, name = {}, ""
    for line in lines:
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = [("FROM", base)]
        elif name:
            stages[name].append((instruction, rest.strip()))
    return stages


def test_bases_are_pinned_by_digest_or_stages_of_our_own():
    stages = _stages()
    for (_, base), *_ in stages.values():
        assert base in stages or base.endswith("@${PYTHON_DIGEST}")
    first = (K8S / "Dockerfile").read_text("utf-8").partition("FROM")[0]
    assert re.search(r"^ARG PYTHON_DIGEST$", first, re.MULTILINE)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_run_as_nobody_special_and_hold_no_compiler(target):
    stage = _stages()[target]
    assert stage[-1] == ("USER", "1000:1000")
    assert [rest for instruction, rest in stage if instruction == "COPY"] == [
        f"--from=build-{target} /usr/local /usr/local"
    ]
    assert not [rest for instruction, rest in stage if instruction in ("RUN", "ADD")]
    assert "apt-get" not in (K8S / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_nothing_is_fetched_without_a_hash(target):
    commands = [rest for instruction, rest in _stages()[f"build-{target}"] if instruction == "RUN"]
    requirements, ourselves = map(str.split, commands)
    assert requirements[:2] == ourselves[:2] == ["pip", "install"]
    assert "--require-hashes --only-binary :all:" in " ".join(requirements)
    assert requirements[-2:] == ["--requirement", f"requirements.{target}.lock"]
    assert ourselves[2:] == ["--no-index", "--no-deps", "--no-build-isolation", "."]


def _locked(target):
    """Versions and hashes by the name of the package."""
    text = (K8S / f"requirements.{target}.lock").read_text("utf-8").replace("\\\n", " ")
    entries = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {
        canonicalize_name(what.partition("==")[0]): (what.partition("==")[2], hashes)
        for what, *hashes in entries
    }


def _pinned(*paths):
    """Versions by the name of the package, on Linux."""
    lines = [line.partition("#")[0] for path in paths for line in path.read_text("utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line.strip()]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate({"sys_platform": "linux"})
    }


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_locked_versions_are_the_pinned_ones(target):
    pinned = _pinned(ROOT / "constraints.txt", K8S / "constraints.image.txt")
    if target == "cuda":
        pinned["torch"] = pinned["torch"].removesuffix("+cpu")
    locked = {name: version for name, (version, _) in _locked(target).items()}
    assert {name: version for name, version in locked.items() if name in pinned} == {
        name: version for name, version in pinned.items() if name in locked
    }
    # What torch's build for CUDA brings is pinned by torch itself.
    others = {name for name in locked if name not in pinned}
    assert target == "cuda" or not others
    assert all(name.startswith(("cuda-", "nvidia-", "triton")) for name in others)
    assert target == "cpu" or "nvidia-cublas" in others


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_locked_package_has_hashes(target):
    for name, (version, hashes) in _locked(target).items():
        assert version, name
        assert hashes, name
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", word) for word in hashes), name


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_all_that_is_asked_for_is_locked(target):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    asked += [
        line.partition("#")[0]
        for line in (K8S / "requirements.in").read_text("utf-8").splitlines()
        if line.partition("#")[0].strip()
    ]
    locked = _locked(target)
    for requirement in map(Requirement, asked):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    assert {
        "aiohttp-cors",
        "grpcio",
        "py-spy",
    } <= locked.keys()  # of ray[default]: KubeRay finds Ray's agents


def test_what_is_copied_is_there_and_let_through():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for stage in _stages().values():
        for instruction, rest in stage:
            if instruction == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert source in let_through, source


def test_packages_of_the_wheel_are_all_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = [rest.split()[0] for instruction, rest in _stages()["build-cpu"] if instruction == "COPY"]
    assert {name.rstrip("*") for name in include} <= set(copied)


def _build(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_DIGEST"}
    return subprocess.run(
        [str(K8S / "build.sh"), *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("digest", ["", "latest", "sha256:0123", "sha256:" + "g" * 64])
def test_nothing_is_built_on_a_base_without_a_digest(digest):
    done = _build("cpu", PYTHON_DIGEST=digest)
    assert done.returncode == 2
    assert "docker buildx imagetools inspect python:3.11-slim-bookworm" in done.stderr


def test_a_target_must_be_named():
    done = _build("gpu", PYTHON_DIGEST="sha256:" + "0" * 64)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_builds_have_the_tags_of_the_manifests_and_a_bill_of_materials(tmp_path):
    """With a docker that only says what it was asked for."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    built = set()
    for target in ("cpu", "cuda"):
        done = _build(
            target, PYTHON_DIGEST="sha256:" + "0" * 64, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        )
        words = done.stdout.splitlines()
        built.add(words[words.index("--tag") + 1])
        assert "--sbom=true" in words
        assert Path(words[words.index("--file") + 1]) == Path("k8s/Dockerfile")
    used = {
        container["image"]
        for overlay in OVERLAYS
        for container in containers(render(f"overlays/{overlay}")).values()
        if container["image"].startswith("surtitle")
    }
    assert used == built
