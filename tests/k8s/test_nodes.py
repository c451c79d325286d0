"""A Ray of four machines, each a network namespace with an address of its own, one of which is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from tests.k8s.machines import ENVIRONMENT, Machines, line_with, process

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
import asyncio, json, sys, urllib.error, urllib.request
from contextlib import AsyncExitStack
from tests.workers.conftest import client, eventually

def get(path):
    return urllib.request.urlopen("http://127.0.0.1:{PORT}" + path).read().decode()

def metric(name):
    lines = [line for line in get("/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)

async def draining():
    try:
        get("/readyz")
    except urllib.error.HTTPError as error:
        return error.code == 503

async def say(speaker, word):
    await speaker.send(word)
    return await speaker.until("translation")

async def watch(viewer):
    return [event["stable"] for event in await viewer.rest() if event.get("final")]

async def main():
    async with AsyncExitStack() as stack:
        async def connected(path, *messages):
            return await stack.enter_async_context(client("ws://127.0.0.1:{PORT}/v1/" + path, *messages))

        start = {{"type": "start", "partials": False}}
        speakers = [await connected("stream", start) for _ in range({STREAMS})]
        ids = [(await speaker.receive())["stream_id"] for speaker in speakers]
        viewers = [await connected(f"streams/{{id}}/captions?target=en") for id in ids]
        watching = asyncio.gather(*map(watch, viewers))
        for word in (b"uno.", b"dos.", b"mil.", b"fin."):
            heard = await asyncio.gather(*(say(speaker, word) for speaker in speakers))
            finals = [[e["stable"] for e in one if e.get("final")] for one in heard]
            moved = metric("surtitle_streams_moved_total")
            print(json.dumps({{"finals": finals, "moved": moved}}), flush=True)
            if word == b"mil.":
                await eventually(draining)
            elif word != b"fin.":
                await asyncio.to_thread(sys.stdin.readline)
        for speaker in speakers:
            await speaker.send({{"type": "stop"}})
        done = [(await speaker.until("done"))[-1]["utterances"] for speaker in speakers]
        print(json.dumps({{"done": done, "seen": await watching}}), flush=True)

asyncio.run(main())
"""

PLACES = f"""
import ray
ray.init(address="auto", log_to_driver=False)
places = {{"surtitle_encoder": 1, "surtitle_decoder": 1, "node:{Machines.address(2)}": 0.001}}
print(ray.get(ray.remote(lambda: "free").options(num_cpus=0, resources=places).remote(), timeout=30))
"""
"""Takes the places of workers on the node that is left, which can be had once nobody has them any more."""


async def test_streams_go_on_when_a_machine_is_cut_off(machines, short_path, tmp_path):
    ray = str(Path(sys.executable).with_name("ray"))
    shared = {**ENVIRONMENT, "HOME": str(tmp_path)}
    head = f"{machines.address(1)}:6379"

    def node(number, *arguments):
        return process(
            machines,
            number,
            *(ray, "start", "--block", f"--node-ip-address={machines.address(number)}"),
            *(f"--temp-dir={short_path}/{number}", "--object-store-memory=80000000", "--disable-usage-stats"),
            *("--include-log-monitor=false", *arguments),
            errors=asyncio.subprocess.DEVNULL,
            **shared,
        )

    places = json.dumps({"surtitle_encoder": 1, "surtitle_decoder": 1})
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(100):
        for number, arguments in (
            (1, ("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0")),
            (2, (f"--address={head}", f"--resources={places}", "--num-cpus=2")),
            (3, (f"--address={head}", f"--resources={places}", "--num-cpus=2")),
            (4, (f"--address={head}", "--num-cpus=0")),  # the gateway's, without places
        ):
            started = await stack.enter_async_context(node(number, *arguments))
            await line_with(started.stdout, "Ray runtime started")
        python = (machines, 4, sys.executable, "-c")
        server = await stack.enter_async_context(
            process(*python, SERVER, errors=asyncio.subprocess.PIPE, **shared, RAY_ADDRESS=head)
        )
        await line_with(server.stderr, "surtitle ready")
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
        server.send_signal(signal.SIGTERM)
        later, last = await said(), await said()
        done = await said()
        ended = await server.wait()
        asking = await stack.enter_async_context(
            process(*python, PLACES, errors=asyncio.subprocess.DEVNULL, **shared, RAY_ADDRESS=head)
        )
        left, _ = await asking.communicate()

    assert before == {"finals": [["uno", "en:UNO"]] * STREAMS, "moved": 0}
    assert after["finals"] == [["dos", "en:DOS"]] * STREAMS
    assert after["moved"] > 0
    assert later["finals"] == [["mil", "en:MIL"]] * STREAMS
    # The gateway was told to go while streams ran: they came to their end first, then its workers to theirs.
    assert last["finals"] == [["fin", "en:FIN"]] * STREAMS
    seen = [["en:UNO", "en:DOS", "en:MIL", "en:FIN"]] * STREAMS
    assert done == {"done": [4] * STREAMS, "seen": seen}
    assert (ended, left) == (0, b"free\n")
