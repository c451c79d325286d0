"""The benchmark of live streams: its speech, its clock, its scripted texts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import streams
from pipeline.chunks.gate import SpeechEnd, SpeechGate, SpeechStart


def test_speech_fills_about_the_part_of_the_time_that_is_said():
    audio = streams.speech("es", 60.0, np.random.default_rng(3))
    gate = SpeechGate(streams.StreamConfig().gate)
    items = [*gate.push(audio), *gate.flush()]
    spoken = sum(item.sample for item in items if isinstance(item, SpeechEnd))
    spoken -= sum(item.sample for item in items if isinstance(item, SpeechStart))

    assert len(audio) == 60 * 16_000
    assert 0.45 < spoken / len(audio) < 0.75


def by_the_wall(babbler):
    """As on a GPU."""
    return streams.observe(babbler, 2, 10.0, babbler.new_pool(2 * streams.POSITIONS))


@pytest.mark.parametrize("virtual", [True, False])
def test_every_utterance_of_every_stream_is_finished(babbler, virtual):
    run = streams.simulate(babbler, 2, 10.0) if virtual else by_the_wall(babbler)

    assert run.streams == 2
    assert run.utterances >= 2
    assert run.work_ms == pytest.approx(1e3 * (run.encoding + run.decoding) / 2)
    assert run.busy > 0
    # The gate has to wait before it knows.
    assert 0.5 < run.p50_final_s <= run.p95_final_s
    assert run.batch >= 1


def test_more_streams_are_tried_until_they_are_too_many(monkeypatch):
    tried = []

    def simulate(count, seconds):
        tried.append(count)
        return streams.Run(count, 10, 0.7, 0.7 if count < 8 else 2.4, 0.5, 60.0, 1.0, 0.2, 0.3, 20.0, 0.01, 0)

    runs = streams.carried(simulate, [4, 8, 16], 30.0)

    assert tried == [4, 4, 8]
    assert [run.streams for run in runs] == [4, 8]


def test_the_last_line_is_the_result(capsys, checkpoint):
    streams.main(["--streams", "1", "--seconds", "10", "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert {"streams_per_core", "p95_final_s", "runs"} <= result.keys()
    assert result["runs"][0]["streams"] == 1
