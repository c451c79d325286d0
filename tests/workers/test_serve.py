"""The server as a process: it says when it is ready, serves, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import signature

import pytest

from pipeline.cli import NANO
from pipeline.gemma.prompt import PromptTemplate
from tests.workers.conftest import client, eventually
from workers import serve
from workers.loading import load_decoder, load_encoder
from workers.serve import gpus, run
from workers.settings import Settings, SettingsError

PROGRAM = """
import sys
from tests.workers.doubles import load_decoder, load_encoder
from workers.serve import serve
from workers.settings import Settings
serve(Settings(port=int(sys.argv[1])), "spelling", load_encoder, load_decoder)
"""


@asynccontextmanager
async def server(port=0, **environment):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def nothing_left(session):
    """Whether no process of a session is alive."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getsid(int(name)) == session:
                return False
    return True


async def test_serves_until_a_signal_and_leaves_nothing():
    async with server() as process:
        line = (await process.stderr.readline()).decode()
        url = line.split()[3]
        async with client(url, {"type": "start", "partials": False}, b"hola..") as speaker:
            await speaker.until("translation")
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
            async with asyncio.timeout(15):
                rest = await speaker.rest()
                output, errors = await process.communicate()

    assert line == (f"surtitle ready on {url} (model spelling, 1 encoder worker, 1 decoder worker)\n")
    assert url.startswith("ws://127.0.0.1:")
    assert rest[-1]["code"] == "shutting_down"
    assert (process.returncode, output, errors) == (0, b"", b"")
    await eventually(partial(nothing_left, process.pid))


async def test_a_taken_address_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with server(port) as process:
            _, errors = await process.communicate()

    assert process.returncode != 0
    assert f"SettingsError: cannot listen on 127.0.0.1:{port}" in errors.decode()


def test_a_bad_configuration_ends_before_anything_starts(tmp_path):
    (tmp_path / "surtitle.toml").write_text("[server]\nport = -1\n")

    with pytest.raises(SettingsError, match="port must be from 0 to 65535, got -1"):
        run(config=tmp_path / "surtitle.toml")


def test_workers_prepare_for_as_many_streams_as_they_are_to_take(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(serve, "serve", lambda *args, **options: given.update(options, args=args))
    (tmp_path / "surtitle.toml").write_text("[workers]\nstreams = 77\n")
    run(config=tmp_path / "surtitle.toml", model=str(NANO))

    template = PromptTemplate.from_pretrained(NANO)
    assert (given["languages"], given["context"]) == (template.languages, bool(template.context))
    for load, prepared in zip(given["args"][2:], (load_encoder, load_decoder), strict=True):
        assert load.func is prepared
        assert signature(prepared).bind(*load.args).arguments["streams"] == 77


async def test_a_server_that_is_to_end_lets_streams_come_to_theirs():
    """SIGTERM: no new streams, not ready any more; what runs goes on, and the server ends behind it.

    What is still to be told of its utterances is told.
    """
    async with server(OTEL_TRACES_EXPORTER="console") as process:
        url = (await process.stderr.readline()).decode().split()[3]
        start = {"type": "start", "partials": False}
        async with client(url, start, b"hola..") as speaker:
            await speaker.until("translation")
            os.kill(process.pid, signal.SIGTERM)

            async def refused():
                async with client(url, start) as late:
                    first = await late.receive()
                return first["type"] == "error" and first

            error = await eventually(refused)
            await speaker.send(b"adios.", {"type": "stop"})
            rest = await speaker.rest()
        async with asyncio.timeout(15):
            traces, _ = await process.communicate()

    assert traces.count(b'"name": "utterance"') == 3
    assert (error["code"], error["retry_after"]) == ("shutting_down", 5.0)
    assert [event["stable"] for event in rest if event["type"] == "transcript"] == ["", "adios"]
    assert (rest[-1]["type"], speaker.closed_with) == ("done", 1000)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("address", "settings", "shares"),
    [
        ("", Settings(), (0, 0)),
        ("", Settings(device="cuda"), (1 / 2, 1 / 2)),
        ("", Settings(device="cuda", decoder_workers=3, spares=1), (1 / 6, 1 / 6)),
        ("", Settings(device="cuda", encoder_device="cpu", spares=1), (0, 1 / 2)),
        ("head:6379", Settings(device="cuda", encoder_device="cpu", decoder_workers=2), (0, 1)),
    ],
    ids=str,
)
def test_workers_share_the_gpu_of_one_machine_and_have_one_each_on_a_cluster(
    monkeypatch, address, settings, shares
):
    monkeypatch.setenv("RAY_ADDRESS", address)

    assert (gpus(settings, "encoder"), gpus(settings, "decoder")) == shares
