"""The image: what it is made of and who runs in it. Nothing is built here."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def test_everything_is_installed_in_the_pinned_versions():
    commands = [
        command
        for stage in _stages().values()
        for instruction, rest in stage
        if instruction == "RUN"
        for command in rest.split(" && ")
        if command.startswith("pip install")
    ]
    assert commands
    assert all("--constraint constraints.txt" in command for command in commands)


def test_kuberay_finds_rays_agents():
    assert [rest for instruction, rest in _stages()["build-cuda"] if '"ray[default]"' in rest]


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
