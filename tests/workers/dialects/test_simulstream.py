"""simulstream's protocol by the frames of its client."""

from __future__ import annotations

import json

import pytest

from tests.workers.dialects.conftest import dialled

PATH = "/v1/simulstream"


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
