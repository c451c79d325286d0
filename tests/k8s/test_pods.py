"""The pods of a manifest as processes: its commands, user and mounts, and a root that nobody can write to.

Each pod is a machine of its own with Ray's fixed ports; a pod's containers see the volumes that they mount.
What they run is what is installed here, or, with ``SURTITLE_IMAGE_ROOT=DIR``, what is in the unpacked image
(as ``buildah mount`` or ``docker export`` give it).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.audio.files import read_audio
from tests.k8s.conftest import ROOT, of_kind, pods, render
from tests.k8s.machines import line_with, process

IMAGE = os.environ.get("SURTITLE_IMAGE_ROOT")
TOKEN = "of-this-test-alone" * 2
HEAD = "surtitle-head-svc"
GATEWAY = "Deployment/surtitle-gateway"
TALK = ROOT / "examples" / "talk.es.wav"

CONTAINER = """
set -e
mount -t tmpfs tmpfs {scratch}
mkdir {scratch}/upper {scratch}/work {scratch}/root
root={scratch}/root
mount -t overlay -o lowerdir={image},upperdir={scratch}/upper,workdir={scratch}/work overlay $root
{mounts}
mount -t proc proc $root/proc
mount --bind /dev $root/dev
{volumes}
mount -o remount,ro $root
exec chroot $root setpriv --reuid={user} --regid={group} --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all env --chdir=/tmp {command}
"""

STRANGER = """
import ray
ray.init(address="auto", log_to_driver=False)
print("joined")
"""


METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8765/metrics").read().decode())
"""


class Pod:
    """Containers of one pod, on a machine."""

    def __init__(self, machines, number, name, folder):
        self.number, self._machines, self._folder, self._name = number, machines, folder, name
        manifests = render("overlays/laptop")
        self._spec = pods(manifests)[name]["spec"]
        (self._config,) = [m["data"]["surtitle.toml"] for m in of_kind(manifests, "ConfigMap")]

    def start(self, container, *command, **variables):
        """A container's own command, or another one in its place."""
        given = {}
        for variable in container["env"]:
            value = variable.get("value", TOKEN)
            given[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: given[name[1]], value)
        here = Path(sys.executable).parent if IMAGE is None else Path("/usr/local/bin")
        path = f"{here}:/usr/bin:/bin:/usr/sbin:/sbin"
        given = {"PATH": path, "PYTHONUNBUFFERED": "1"} | given | variables
        command = command or (*container["command"], *container.get("args", ()))
        command = [re.sub(r"\$\((\w+)\)", lambda name: given[name[1]], word) for word in command]
        words = [f"{name}={value}" for name, value in given.items()]
        security = self._spec["securityContext"]
        scratch = tempfile.mkdtemp(dir=self._folder)
        script = CONTAINER.format(
            scratch=scratch,
            image=IMAGE or "/",
            mounts="\n".join(self._places()),
            volumes="\n".join(self._volumes(container)),
            user=security["runAsUser"],
            group=security["runAsGroup"],
            command=shlex.join(["-i", *words, *command]),
        )
        return process(
            self._machines,
            self.number,
            *("unshare", "--mount", "sh", "-c", script),
            errors=asyncio.subprocess.STDOUT,
        )

    def _places(self):
        """What a container's root gets before it is closed: names, and ways to what is installed here."""
        hosts = self._folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self._machines.address(1)} {HEAD}\n")
        yield f"cp {hosts} $root/etc/hosts"
        # Whoever asks for more than is there hears at once that there is nobody.
        yield "echo nameserver 127.0.0.1 >$root/etc/resolv.conf"
        if IMAGE is None:
            real = Path(sys.executable).resolve()
            yield from (f"chmod a+rx $root{parent}" for parent in (*real.parents, *ROOT.parents))

    def _volumes(self, container):
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        mounts = list(container["volumeMounts"])
        if not any(mount["mountPath"] == "/dev/shm" for mount in mounts):
            mounts.append({"name": "shared-mem", "mountPath": "/dev/shm"})  # KubeRay's
        for mount in mounts:
            source = self._folder / self._name.replace("/", "-") / mount["name"]
            if not source.is_dir():
                source.mkdir(parents=True)
                source.chmod(0o777)
                if "configMap" in volumes.get(mount["name"], ()):
                    (source / "surtitle.toml").write_text(self._config)
            place = f"$root{mount['mountPath']}"
            yield f"mkdir -p {place} && mount --bind {source} {place}"
        if IMAGE is None and any(ROOT.is_relative_to(mount["mountPath"]) for mount in mounts):
            # A volume hides what is to run.
            yield f"mkdir -p $root{ROOT} && mount --bind {ROOT} $root{ROOT}"


def _ray_start(group, *first):
    """What KubeRay makes of a group's parameters, and a shell of that."""
    given = group["rayStartParams"].items()
    flags = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in given]
    return ("ray", "start", *first, "--block", *shlex.split(" ".join(flags)))


@pytest.fixture(name="folder")
def _folder(short_path):
    """Volumes of pods, where an overlay can be mounted."""
    trial = f"mount -t tmpfs t {short_path} && cd {short_path} && mkdir u w r && "
    trial += f"mount -t overlay -o lowerdir={IMAGE or '/'},upperdir=u,workdir=w overlay r"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", trial], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"overlay mounts are not permitted here: {done.stderr.strip()}")
    folder = Path(short_path)
    folder.chmod(0o755)
    return folder


async def test_pods_of_the_laptop_translate_a_talk_without_rights(machines, folder):
    manifests = render("overlays/laptop")
    (cluster,) = of_kind(manifests, "RayCluster")
    groups = {"head": cluster["spec"]["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    by_kuberay = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

    def of_group(number, name, *first):
        (container,) = groups[name]["template"]["spec"]["containers"]
        command = _ray_start(groups[name], *first)
        return Pod(machines, number, f"RayCluster/surtitle/{name}", folder).start(
            container, *command, **by_kuberay
        )

    in_front = Pod(machines, 4, GATEWAY, folder)
    template = pods(manifests)[GATEWAY]["spec"]
    (sidecar,), (gateway,) = template["initContainers"], template["containers"]
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(120):
        head = await stack.enter_async_context(of_group(1, "head", "--head", "--port=6379"))
        await line_with(head.stdout, "Ray runtime started")
        nodes = (
            of_group(2, "encoder", f"--address={HEAD}:6379"),
            of_group(3, "decoder", f"--address={HEAD}:6379"),
            in_front.start(sidecar),
        )
        started = [await stack.enter_async_context(node) for node in nodes]
        await asyncio.gather(*(line_with(node.stdout, "Ray runtime started") for node in started))
        serving = await stack.enter_async_context(in_front.start(gateway))
        stranger = await stack.enter_async_context(
            in_front.start(gateway, "python3", "-c", STRANGER, RAY_AUTH_TOKEN="of-somebody-else" * 2)
        )
        (refused, _), _ = await asyncio.gather(
            stranger.communicate(), line_with(serving.stdout, "surtitle ready")
        )
        listening = await stack.enter_async_context(
            in_front.start(gateway, "surtitle", "listen", "-", "--from", "es", "--to", "en")
        )
        pcm = (read_audio(TALK) * 32_767).astype("<i2").tobytes()
        heard, _ = await listening.communicate(pcm)
        asking = await stack.enter_async_context(in_front.start(gateway, "python3", "-c", METRICS))
        metrics, _ = await asking.communicate()
        serving.terminate()
        log, ended = (await serving.stdout.read()).decode(), await serving.wait()

    assert b"joined" not in refused
    assert b"token" in refused
    assert b"The cat is breaking this sofa." in heard, log
    assert b"surtitle_ledger_up 1.0" in metrics, log
    assert ended == 0
