"""The live benchmark: its pace, its service, its last line."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from benchmarks import live
from benchmarks.quality import Clip
from benchmarks.talks import compose
from pipeline.audio.files import read_audio
from pipeline.config import PolicyConfig, StreamConfig
from pipeline.wire.events import Done


async def test_frames_come_when_they_have_been_spoken():
    loop = asyncio.get_running_loop()
    begin, frames = loop.time(), []
    async for frame in live.paced(bytes(10_000), 3_200, begin):
        frames.append((len(frame), loop.time() - begin))

    assert [size for size, _ in frames] == [3_200, 3_200, 3_200, 400]
    assert all(late >= spoken for (_, late), spoken in zip(frames, (0.1, 0.2, 0.3, 0.3125), strict=True))
    assert frames[-1][1] < 1


def test_events_come_with_their_audio(babbler, recording):
    arrivals = live.hear_fast(babbler, read_audio(recording)[:64_000], "es", StreamConfig(max_new_tokens=4))

    assert isinstance(arrivals[-1].event, Done)
    assert all(arrival.elapsed == arrival.event.audio_time for arrival in arrivals)


def test_four_targets_are_compared_with_one_and_the_model_is_as_before(babbler, recording, monkeypatch):
    talk = compose("x", "es", "en", [Clip(read_audio(recording)[:32_000], "a", "b")], pauses=(0, 0))
    languages, heard, hear = babbler.prompt.languages, [], live.hear_fast
    monkeypatch.setattr(live, "hear_fast", lambda *given: heard.append(given[-1].targets) or hear(*given))

    assert live.cost(babbler, talk) > 0.1
    assert heard == [("en",), ("en",), ("en", "fr", "it", "pt")]
    assert babbler.prompt.languages == languages


def test_words_in_noise_are_counted(babbler, monkeypatch):
    """A random model babbles wherever the gate lets anything through; where nothing is, it says nothing."""
    monkeypatch.setattr(live, "nobody", lambda seconds: np.zeros(round(seconds * 16_000), np.float32))

    assert live.hallucinated(babbler, 5.0) == 0


@pytest.fixture(name="one_word")
def _one_word(monkeypatch, recording):
    """Talks that take no time."""
    clip = Clip(read_audio(recording)[8_000:40_000], "uno dos", "one two")
    talks = [compose("one.wav", "es", "en", [clip], pauses=(0, 0))]
    monkeypatch.setattr(live, "held_out_talks", lambda *_: talks)


@pytest.mark.usefixtures("one_word")
def test_the_curve_has_a_row_for_each_policy(babbler, checkpoint, capsys, monkeypatch, tmp_path):
    pytest.importorskip("omnisteval")
    monkeypatch.setattr(live, "CURVE", [PolicyConfig("agreement", agreement=1), PolicyConfig("attention")])
    live.main(["--policies", "--sentences", "1", "--model", str(checkpoint), "--output", str(tmp_path)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert [row["policy"] for row in result["policies"]] == ["agreement", "attention"]
    assert all(row["erasure_stable"] == 0 for row in result["policies"])
    assert "bleu_offline" in result


@pytest.mark.usefixtures("one_word")
def test_the_last_line_is_what_a_service_does(checkpoint, capsys, tmp_path):
    pytest.importorskip("omnisteval")
    options = ["--sentences", "1", "--noise-seconds", "4", "--output", str(tmp_path)]
    live.main([*options, "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert {
        *("longyaal_cu_s", "longyaal_ca_s", "bleu_live", "bleu_offline", "wer", "final_p95_s"),
        *("erasure_stable", "erasure_tentative", "hallucinated_words", "cost_4_targets"),
    } <= result.keys()
    assert result["erasure_stable"] == 0
    assert (tmp_path / "simulstream.jsonl").read_text().count("wav_name") == 1
    assert (tmp_path / "es-en" / "hypothesis.jsonl").is_file()
