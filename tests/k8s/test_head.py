"""A Ray head that is lost and comes back elsewhere under its name, its state in Redis, as in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import ray

from tests.k8s.machines import ENVIRONMENT, line_with, process

PORT, REDIS_PORT = 8765, 6400
HEAD = "surtitle-head-svc"
RAY, RAYLET = Path(sys.executable).with_name("ray"), Path(ray.__file__).parent / "core/src/ray/raylet/raylet"

SERVER = f"""
from tests.workers.doubles import load_decoder, load_encoder
from workers.serve import serve
from workers.settings import Settings
serve(Settings(port={PORT}, threads=1, streams=4), "spelling", load_encoder, load_decoder)
"""

CLIENT = f"""
import asyncio, json, sys, urllib.request
from contextlib import AsyncExitStack
from tests.workers.conftest import client, eventually

def metric(name):
    with urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics") as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)

async def main():
    speakers = {{}}
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            who, word = line.split()
            if who == "metric":
                name, _, value = word.partition(">=")

                async def reached():
                    await asyncio.sleep(0.5)  # who asks more often is refused
                    return await asyncio.to_thread(metric, name) >= float(value)

                await eventually(reached, seconds=60)
                said = word
            elif who == "closed":
                await speakers[word].connection.wait_closed()
                said = speakers[word].connection.close_code
            else:
                if who not in speakers:
                    start = {{"type": "start", "partials": False}}
                    speakers[who] = await stack.enter_async_context(
                        client("ws://127.0.0.1:{PORT}/v1/stream", start)
                    )
                await speakers[who].send(word.encode())
                said = [e["stable"] for e in await speakers[who].until("translation") if e.get("final")]
            print(json.dumps(said), flush=True)

asyncio.run(main())
"""

SEES_THE_HEAD_AS_DEAD = """
import asyncio, ray
from tests.workers.conftest import eventually
ray.init(address="auto", log_to_driver=False)
async def lost():
    return [node for node in ray.nodes() if not node["Alive"]]
asyncio.run(eventually(lost, seconds=60))
"""


@pytest.fixture(name="names")
def _names(machines):
    """Have machines find the head by name; returns what moves the name to a machine."""
    if shutil.which("redis-server") is None:
        pytest.skip("the head's state needs `redis-server` (Debian and Ubuntu: apt-get install redis-server)")
    folders = [Path("/etc/netns") / machines.name(number) for number in (1, 2, 3, 4)]
    for folder in folders:
        folder.mkdir(parents=True)
        # Whoever asks for more than is there hears at once that there is nobody.
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def move(number):
        for folder in folders:
            # In place: processes that run see this very file as /etc/hosts.
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{machines.address(number)} {HEAD}\n")

    yield move
    for folder in folders:
        shutil.rmtree(folder)


async def test_streams_outlive_the_head_and_workers_can_be_replaced_once_it_is_back(
    machines, names, short_path
):
    shared = {**ENVIRONMENT, "RAY_gcs_rpc_server_reconnect_timeout_s": "600", "HOME": short_path}
    # As KubeRay sets them.
    state = {
        "RAY_REDIS_ADDRESS": f"{machines.address(4)}:{REDIS_PORT}",
        "RAY_external_storage_namespace": "surtitle",
    }

    def pod(number, *arguments, then="sleep infinity", **variables):
        """A node of Ray and what runs beside it, with processes of its own.

        A driver looks for its node among all processes that it sees, and would take the head's.
        """
        node = (
            *(str(RAY), "start", f"--node-ip-address={machines.address(number)}"),
            *(f"--temp-dir={short_path}/{number}", "--object-store-memory=80000000", "--disable-usage-stats"),
            *("--include-log-monitor=false", *arguments),
        )
        script = f"{shlex.join(node)} && {then}"
        return process(
            machines,
            number,
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script),
            errors=asyncio.subprocess.PIPE,
            **shared | variables,
        )

    def head(number):
        return pod(number, "--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0", **state)

    places = json.dumps({"surtitle_encoder": 1, "surtitle_decoder": 1})
    joining = f"--address={HEAD}:6379"
    serving = shlex.join([sys.executable, "-c", SERVER])
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(150):
        options = ("--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", short_path)
        redis = await stack.enter_async_context(
            process(
                *(machines, 4, "redis-server", "--port", str(REDIS_PORT), *options),
                errors=asyncio.subprocess.DEVNULL,
            )
        )
        await line_with(redis.stdout, "Ready to accept connections")
        names(1)
        async with head(1) as first:
            await line_with(first.stdout, "Ray runtime started")
            node = await stack.enter_async_context(pod(2, joining, f"--resources={places}", "--num-cpus=1"))
            await line_with(node.stdout, "Ray runtime started")
            server = await stack.enter_async_context(
                pod(4, joining, "--num-cpus=0", then=serving, RAY_ADDRESS=f"{HEAD}:6379")
            )
            await line_with(server.stderr, "surtitle ready")
            client = await stack.enter_async_context(
                process(
                    *(machines, 4, sys.executable, "-c", CLIENT), errors=asyncio.subprocess.DEVNULL, **shared
                )
            )

            async def done(who, word):
                client.stdin.write(f"{who} {word}\n".encode())
                return json.loads(await client.stdout.readline())

            before = await done("one", "uno.")
        without = [await done("one", "dos."), await done("two", "mil.")]

        names(3)
        second = await stack.enter_async_context(head(3))
        await line_with(second.stdout, "Ray runtime started")
        looking = await stack.enter_async_context(
            process(
                *(machines, 3, sys.executable, "-c", SEES_THE_HEAD_AS_DEAD),
                errors=asyncio.subprocess.DEVNULL,
                **shared | {"RAY_ADDRESS": f"{HEAD}:6379"},
            )
        )
        assert await looking.wait() == 0
        back = [await done("one", "fin."), await done("three", "sol.")]

        machines.kill(2, "ray::EncoderWorker")
        machines.kill(2, "ray::DecoderWorker")
        await done("metric", "surtitle_workers_lost_total>=2")
        replaced = [await done("one", "mar."), await done("four", "pan.")]
        machines.kill(2, "ray::Ledger")
        # The word waits for the ledger, or goes out without it and says so until one is there again.
        last = await done("one", "pie.")
        kept = await done("metric", "surtitle_ledger_up>=1")

        # The node that the gateway joined by: no worker can be had any more, so the gateway has to end.
        machines.kill(4, str(RAYLET))
        await line_with(server.stderr, "the node of Ray on this machine has ended")
        closed, ended = await done("closed", "one"), await server.wait()

    assert before == ["uno", "en:UNO"]
    assert without == [["dos", "en:DOS"], ["mil", "en:MIL"]]
    assert back == [["fin", "en:FIN"], ["sol", "en:SOL"]]
    assert replaced == [["mar", "en:MAR"], ["pan", "en:PAN"]]
    assert (last, kept) == (["pie", "en:PIE"], "surtitle_ledger_up>=1")
    assert closed == 1012  # so that clients resume, on another gateway
    assert ended != 0
