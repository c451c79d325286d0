"""The machine's clock jumps by a day, and nothing that waits or measures notices."""

from __future__ import annotations

import time

import pytest

from tests.workers.conftest import client, finals, running
from workers.clock import unix_clock


def test_it_starts_with_the_time_and_goes_on_steadily():
    wall, steady = iter((1_000.0,)), iter((5.0, 6.0, 8.5))
    clock = unix_clock(lambda: next(wall), lambda: next(steady))

    assert (clock(), clock()) == (1_001.0, 1_003.5)


@pytest.mark.parametrize("jump", [86_400, -86_400])
async def test_a_jump_of_the_clock_in_mid_stream_changes_nothing(monkeypatch, jump):
    told, jumped = time.time, []
    monkeypatch.setattr(time, "time", lambda: told() + sum(jumped))
    async with running() as server, client(server.url, {"type": "start"}) as speaker:
        ready = await speaker.receive()
        stream = f"ws://{server.address}/v1/streams/{ready['stream_id']}"
        async with client(f"{stream}/cues?target=en") as viewer:
            await speaker.send(b"uno.")
            received = await speaker.until("translation")
            shown = [await viewer.receive()]
            jumped.append(jump)
            await speaker.send(b"dos.", {"type": "stop"})
            received += await speaker.rest()
            shown += await viewer.rest()

    assert [text for kind, _, text in finals(received) if kind == "transcript"] == ["uno", "dos"]
    moments = [event["server_time"] for event in (ready, *received)]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < 60
    assert received[-1]["latency"]["final_p95"] < 60
    assert [cue["lines"] for cue in shown] == [["en:UNO"], ["en:DOS"]]
    assert all(0 <= cue["start"] - moments[0] < 60 for cue in shown)
