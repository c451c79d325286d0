"""simulstream's protocol by the frames of its client."""

from __future__ import annotations

import asyncio
import json
import re
import wave

import pytest

from tests.workers.dialects.conftest import dialled

PATH = "/v1/simulstream"

CLIENT = """
from simulstream.client import wav_reader_client

wav_reader_client.LOGGER.setLevel("DEBUG")  # at which it shows what comes back
wav_reader_client.cli_main()
"""


async def test_its_own_client_gets_recordings_translated(server, simulstream, tmp_path):
    names = ("one.wav", "two.wav")
    for name, said in zip(names, (b"hola mundo.", b"adios."), strict=True):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            # It says its last 100 ms twice.
            file.writeframes(said.ljust(3_200, b"\0") + bytes(3_200))
    (tmp_path / "talks.txt").write_text("\n".join(names))
    options = ["--uri", f"ws://{server.address}{PATH}", "--wav-list-file", tmp_path / "talks.txt"]
    client = await asyncio.create_subprocess_exec(
        *(simulstream, "-c", CLIENT, *options, "--src-lang", "es", "--tgt-lang", "de"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, told = await client.communicate()
    outputs = [json.loads(line) for line in re.findall(r"\{.*\}", told.decode())]

    assert client.returncode == 0, told.decode()
    assert b"All 2 files sent" in told
    assert "".join(output.get("new", "|") for output in outputs) == "de:HOLA MUNDO|de:ADIOS|"


async def test_a_recording_is_translated(server):
    """What simulstream_wavs_client sends, and what its log keeps."""
    async with dialled(server, PATH) as socket:
        await socket.send(
            {
                "sample_rate": 16_000,
                "metrics_metadata": {"wav_name": "talk.wav"},
                "target_lang": "de",
                "source_lang": "es",
            },
            b"hola mundo.",
            b"adios.\0",
            {"end_of_stream": True},
        )
        received, code = await socket.rest()

    assert received[-1] == {"end_of_processing": True}
    assert "".join(output["new"] for output in received[:-1]) == "de:HOLA MUNDO de:ADIOS"
    assert all(output["deleted"] == "" for output in received[:-1])
    assert code == 1000


async def test_nothing_said_is_nothing_to_show(server):
    async with dialled(server, PATH) as socket:
        await socket.send({"end_of_stream": True})

        assert await socket.rest() == ([{"end_of_processing": True}], 1000)


@pytest.mark.parametrize(
    "message", ["{", "7", json.dumps({"sample_rate": "x"}), json.dumps({"sample_rate": 3})]
)
async def test_nonsense_ends_the_connection(server, message):
    async with dialled(server, PATH) as socket:
        await socket.send(message)

        assert await socket.rest() == ([], 1008)
