"""A Ray of four machines, each a network namespace with an address of its own, one of which is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.k8s.conftest import ROOT

STREAMS = 4
PORT = 8765

SERVER = f"""
from tests.workers.doubles import load_decoder, load_encoder
from workers.serve import serve
from workers.settings import Settings
serve(
    Settings(port={PORT}, encoder_workers=2, decoder_workers=2, threads=1, streams=8),
    "spelling", load_encoder, load_decoder,
)
"""

CLIENT = f"""
import asyncio, json, sys, urllib.request
from contextlib import AsyncExitStack
from tests.workers.conftest import client

def metric(name):
    text = urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics").read().decode()
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)

async def say(speaker, word):
    await speaker.send(word)
    return await speaker.until("translation")

async def main():
    async with AsyncExitStack() as stack:
        start = {{"type": "start", "partials": False}}
        speakers = [
            await stack.enter_async_context(client("ws://127.0.0.1:{PORT}/v1/stream", start))
            for _ in range({STREAMS})
        ]
        for word in (b"uno.", b"dos.", b"mil."):
            heard = await asyncio.gather(*(say(speaker, word) for speaker in speakers))
            finals = [[e["stable"] for e in one if e.get("final")] for one in heard]
            moved = metric("surtitle_streams_moved_total")
            print(json.dumps({{"finals": finals, "moved": moved}}), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        for speaker in speakers:
            await speaker.send({{"type": "stop"}})
        done = [(await speaker.until("done"))[-1]["utterances"] for speaker in speakers]
        print(json.dumps({{"done": done}}), flush=True)

asyncio.run(main())
"""


class Machines:
    """Namespaces on one switch, by number from 1 up; machine n has the address 10.77.0.n.

    Nothing of them is seen from outside: the switch is in a namespace of its own, too.
    """

    def __init__(self, number: int) -> None:
        self._prefix = f"surtitle{os.getpid()}"
        self._numbers = range(1, number + 1)
        self.switch = f"{self._prefix}-switch"

    def __enter__(self) -> Machines:
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "switch", "up")
        for number in self._numbers:
            name, port = self.name(number), f"port{number}"
            _ip("netns", "add", name)
            _ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self.switch, "link", "set", port, "master", "switch", "up")
            _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            # Ray finds its own address by the way out, which leads nowhere.
            _ip("-n", name, "route", "add", "default", "via", "10.77.0.254")
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.switch, *map(self.name, self._numbers)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{number}"

    def cut(self, number: int) -> None:
        """Pull the plug: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", f"port{number}", "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)


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


@contextlib.asynccontextmanager
async def process(machines, number, *command, errors, **variables):
    """A process on a machine; it and all that it has started end with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    running = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", machines.name(number), *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        env=environment | variables,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        for pid in _session(running.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await running.wait()


def _session(leader):
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(name)) == leader:
                yield int(name)


async def _line_with(stream, text):
    while text not in (line := (await stream.readline()).decode()):
        assert line, f"it ended without saying {text!r}"


async def test_streams_go_on_when_a_machine_is_cut_off(machines, short_path, tmp_path):
    ray = str(Path(sys.executable).with_name("ray"))
    shared = {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-alone" * 2,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_worker_prestart": "0",
        "PYTHONUNBUFFERED": "1",
        "HOME": str(tmp_path),
    }
    head = f"{machines.address(1)}:6379"

    def node(number, *arguments):
        return process(
            machines,
            number,
            *(ray, "start", "--block", f"--node-ip-address={machines.address(number)}", "--num-cpus=0"),
            *(f"--temp-dir={short_path}/{number}", "--object-store-memory=80000000", "--disable-usage-stats"),
            *("--include-log-monitor=false", *arguments),
            errors=asyncio.subprocess.DEVNULL,
            **shared,
        )

    places = json.dumps({"surtitle_encoder": 1, "surtitle_decoder": 1})
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(100):
        for number, arguments in (
            (1, ("--head", "--port=6379", "--include-dashboard=false")),
            (2, (f"--address={head}", f"--resources={places}")),
            (3, (f"--address={head}", f"--resources={places}")),
            (4, (f"--address={head}",)),  # the gateway's, without places
        ):
            started = await stack.enter_async_context(node(number, *arguments))
            await _line_with(started.stdout, "Ray runtime started")
        python = (machines, 4, sys.executable, "-c")
        server = await stack.enter_async_context(
            process(*python, SERVER, errors=asyncio.subprocess.PIPE, **shared, RAY_ADDRESS=head)
        )
        await _line_with(server.stderr, "surtitle ready")
        speaking = await stack.enter_async_context(
            process(*python, CLIENT, errors=asyncio.subprocess.DEVNULL, **shared)
        )

        async def said():
            return json.loads(await speaking.stdout.readline())

        before = await said()
        machines.cut(3)
        speaking.stdin.write(b"\n")
        after = await said()
        speaking.stdin.write(b"\n")
        later = await said()
        speaking.stdin.write(b"\n")
        done = await said()

    assert before == {"finals": [["uno", "en:UNO"]] * STREAMS, "moved": 0}
    assert after["finals"] == [["dos", "en:DOS"]] * STREAMS
    assert after["moved"] > 0
    assert later["finals"] == [["mil", "en:MIL"]] * STREAMS
    assert done == {"done": [3] * STREAMS}
