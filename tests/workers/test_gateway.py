"""Clients and viewers get what protocol version 1 promises, over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidStatus

from pipeline.wire.protocol import SUBPROTOCOL, Limits
from tests.workers.conftest import client, emptied, finals, running
from tests.workers.doubles import load_encoder
from workers.encoder import EncoderWorker
from workers.messages import Push

START = {"type": "start", "partials": False}
STOP = {"type": "stop"}


async def test_speech_comes_back_as_transcript_and_translation(server):
    async with client(server.url, START, b"hola.adios.", STOP) as speaker:
        received = await speaker.rest()

    assert finals(received) == [
        ("transcript", 0, "hola"),
        ("translation", 0, "en:HOLA"),
        ("transcript", 1, "adios"),
        ("translation", 1, "en:ADIOS"),
    ]
    assert speaker.closed_with == 1000


async def test_ready_comes_first_and_tells_the_limits(server):
    async with client(server.url, {"type": "start", "source": "es", "targets": ["fr"]}) as speaker:
        ready = await speaker.receive()

    assert ready["type"] == "ready"
    assert (ready["model"], ready["source"], ready["targets"]) == ("spelling", "es", ["fr"])
    assert ready["limits"] == Limits().as_dict()
    assert ready["audio_received"] == 0.0


async def test_events_are_numbered_without_gaps_and_carry_times(server):
    async with client(server.url, {"type": "start"}, b"abcd.ef.", {"type": "mark"}, "?", STOP) as speaker:
        received = await speaker.rest()

    assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
    assert len({event["stream_id"] for event in received}) == 1
    assert all(event["server_time"] > 1e9 and event["audio_time"] >= 0 for event in received)


async def test_done_sums_up(server):
    async with client(server.url, START, bytes(b"a" * 32_000), b"x.", STOP) as speaker:
        done = (await speaker.rest())[-1]

    assert done["type"] == "done"
    assert (done["audio_seconds"], done["utterances"]) == (1.0000625, 1)
    assert done["latency"]["finals"] == 1
    assert 0 <= done["latency"]["final_p50"] <= done["latency"]["final_p95"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
async def test_finals_do_not_depend_on_frames(server, size):
    text = b"uno dos tres. cuatro cinco. " * 20
    async with client(server.url, START) as speaker:
        await speaker.send(*(text[begin : begin + size] for begin in range(0, len(text), size)), STOP)
        received = await speaker.rest()

    texts = [event["stable"] for event in received if event["type"] == "transcript"]
    assert [text.strip() for text in texts] == ["uno dos tres", "cuatro cinco"] * 20 + [""]


async def test_a_last_odd_byte_is_ignored(server):
    async with client(server.url, START, b"hola.x", b"y", STOP) as speaker:
        received = await speaker.rest()

    assert received[-1]["type"] == "done"
    assert [text for kind, _, text in finals(received) if kind == "transcript"] == ["hola", "x"]


async def test_many_clients_get_their_own_answers(server):
    async def speak(name):
        async with client(server.url, START) as speaker:
            for letter in f"{name} {name}.":
                await speaker.send(letter.encode() * 2)
            await speaker.send(STOP)
            return await speaker.rest()

    names = [f"speaker {number:02}" for number in range(20)]
    everything = await asyncio.gather(*(speak(name) for name in names))

    for name, received in zip(names, everything, strict=True):
        doubled = "".join(letter * 2 for letter in f"{name} {name}")
        assert finals(received)[0] == ("transcript", 0, doubled)
        assert finals(received)[1] == ("translation", 0, f"en:{doubled.upper()}")


async def test_a_mark_comes_after_everything_before_it(server):
    async with client(server.url, START, b"abc.def.", {"type": "mark", "id": "m1"}, b"ghi.", STOP) as speaker:
        before = await speaker.until("mark")
        after = await speaker.rest()

    assert before[-1]["id"] == "m1"
    assert [text for kind, _, text in finals(before) if kind == "transcript"] == ["abc", "def"]
    assert [text for kind, _, text in finals(after) if kind == "transcript"] == ["ghi"]


async def test_flush_finalises_what_was_said(server):
    async with client(server.url, START, b"hola", {"type": "flush"}, {"type": "mark"}) as speaker:
        received = await speaker.until("mark")

        assert finals(received) == [("transcript", 0, "hola"), ("translation", 0, "en:HOLA")]


async def test_update_changes_the_targets(server):
    update = {"type": "update", "targets": ["fr", "de"]}
    async with client(server.url, START, b"abc.", update, b"def.", STOP) as speaker:
        received = await speaker.rest()

    translations = [text for kind, _, text in finals(received) if kind == "translation"]
    assert translations == ["en:ABC", "fr:DEF", "de:DEF"]


async def test_a_refused_update_changes_nothing(server):
    async with client(server.url, START, {"type": "update", "targets": ["xx"]}, b"abc.", STOP) as speaker:
        received = await speaker.rest()

    (error,) = [event for event in received if event["type"] == "error"]
    assert (error["code"], error["fatal"]) == ("unknown_language", False)
    assert "en, fr, de" in error["message"]
    assert finals(received)[-1] == ("translation", 0, "en:ABC")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\0\0", "not_started"),
        ({"type": "stop"}, "not_started"),
        ("hello", "bad_message"),
        ({"type": "begin"}, "unknown_type"),
        ({"type": "start", "targets": ["xx"]}, "unknown_language"),
        ({"type": "start", "audio": {"encoding": "mp3"}}, "bad_audio"),
        ({"type": "start", "resume": {"stream_id": "no", "token": "no"}}, "unknown_stream"),
    ],
)
async def test_a_wrong_first_message_is_told_and_ends_the_connection(server, message, code):
    async with client(server.url, message) as speaker:
        (error,) = await speaker.rest()

    assert (error["type"], error["code"], error["fatal"]) == ("error", code, True)
    assert error["message"]
    assert speaker.closed_with == 1008
    await emptied([*server.encoders, *server.decoders])


async def test_a_later_malformed_message_leaves_the_stream_alone(server):
    async with client(server.url, START, "{", {"type": "mark", "no": 1}, START, b"abc.", STOP) as speaker:
        received = await speaker.rest()

    errors = [(event["code"], event["fatal"]) for event in received if event["type"] == "error"]
    assert errors == [("bad_message", False), ("bad_message", False), ("already_started", False)]
    assert len(finals(received)) == 2
    assert speaker.closed_with == 1000


async def test_an_oversized_frame_is_told_and_ends_the_stream(server):
    async with client(server.url, START, bytes(65_537)) as speaker:
        received = await speaker.rest()

    assert (received[-1]["code"], received[-1]["fatal"]) == ("frame_too_large", True)
    assert "65536" in received[-1]["message"]
    assert speaker.closed_with == 1009
    await emptied([*server.encoders, *server.decoders])


@pytest.mark.parametrize("poison", [b"ab!", b"abc?"])
async def test_a_poisoned_stream_fails_alone(server, poison):
    async with client(server.url, START) as healthy, client(server.url, START, b"no") as poisoned:
        await healthy.send(b"hola ")
        await poisoned.send(poison + b"." * (len(poison) % 2))
        failure = await poisoned.rest()
        await healthy.send(b"mundo.", STOP)
        received = await healthy.rest()

    assert (failure[-1]["code"], failure[-1]["fatal"]) == ("internal", True)
    assert "RuntimeError" in failure[-1]["message"]
    assert "no" not in failure[-1]["message"].split()
    assert poisoned.closed_with == 1011
    assert finals(received)[0] == ("transcript", 0, "hola mundo")
    await emptied([*server.encoders, *server.decoders])


async def test_the_subprotocol_is_optional(server):
    async with client(server.url, START, subprotocols=[SUBPROTOCOL]) as speaker:
        assert speaker.connection.subprotocol == SUBPROTOCOL
    async with client(server.url, START, subprotocols=["other"]) as speaker:
        assert speaker.connection.subprotocol is None
        assert (await speaker.receive())["type"] == "ready"


async def test_closing_the_server_tells_its_clients():
    async with running() as server:
        connection = client(server.url, START)
        speaker = await connection.__aenter__()
        await speaker.receive()
    received = await speaker.rest()
    await connection.__aexit__(None, None, None)

    assert (received[-1]["code"], received[-1]["fatal"]) == ("shutting_down", True)
    assert speaker.closed_with == 1012


async def test_a_slow_viewer_is_dropped_and_the_speaker_is_not():
    async with running(send_seconds=0.2) as server, client(server.url, {"type": "start"}) as speaker:
        ready = await speaker.receive()
        captions = f"ws://{server.address}/v1/streams/{ready['stream_id']}/captions?target=es"
        async with client(captions, max_queue=1, close_timeout=0.1):
            received = []
            async with asyncio.timeout(30):
                while not server.metrics.dropped._value.get():
                    await speaker.send(b"abcdefgh" * 200 + b"..", {"type": "mark"})
                    received += await speaker.until("mark")
            await speaker.send(STOP)
            received += await speaker.rest()

    assert received[-1]["type"] == "done"
    assert [event["seq"] for event in received] == list(range(2, len(received) + 2))


async def test_a_fast_client_is_slowed_down():
    """The gateway reads no further than its inbox while the workers stand still."""
    gate = asyncio.Event()

    class Standing(EncoderWorker):
        async def step(self, batch):
            if any(isinstance(request, Push) for request in batch):
                await gate.wait()
            return await super().step(batch)

    async with running(encoders=[Standing(load_encoder)]) as server, client(server.url, START) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        frames = [b"a" * 64_000] * 400
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(speaker.send(*frames), 1.0)
        assert stream.audio_received < 15
        gate.set()
        speaker.connection.transport.abort()


async def test_viewers_get_the_captions_of_their_language(server):
    start = {"type": "start", "targets": ["en", "fr"], "partials": False}
    async with client(server.url, start, b"uno.", b".") as speaker:
        ready = await speaker.receive()
        await speaker.send({"type": "mark"})
        await speaker.until("mark")
        base = f"ws://{server.address}/v1/streams/{ready['stream_id']}/captions"
        async with client(f"{base}?target=fr") as french, client(f"{base}?target=es") as spanish:
            await speaker.send(b"dos.", STOP)
            shown = await french.rest(), await spanish.rest()

    assert [text for _, _, text in finals(shown[0])] == ["fr:UNO", "fr:", "fr:DOS"]
    assert [text for _, _, text in finals(shown[1])] == ["uno", "", "dos"]
    assert "token" not in str(shown)
    assert french.closed_with == 1000


async def test_viewers_have_nothing_to_say(server):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        async with client(
            f"ws://{server.address}/v1/streams/{ready['stream_id']}/captions", {"type": "stop"}
        ) as viewer:
            await viewer.rest()

    assert viewer.closed_with == 1008


async def test_captions_of_no_stream_are_not_found(server):
    with pytest.raises(InvalidStatus, match="404"):
        async with client(f"ws://{server.address}/v1/streams/none/captions"):
            pass
