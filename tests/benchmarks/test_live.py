"""The live benchmark: its pace, its service, its last line."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from benchmarks import live
from benchmarks.quality import Clip
from benchmarks.simul import Arrival
from benchmarks.talks import Sentence, Talk, compose
from pipeline.audio.files import read_audio
from pipeline.config import PolicyConfig, StreamConfig
from pipeline.wire.events import Done, Translation


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
    assert result["directions"]["es-en"]["wer"] == result["wer"]
    for log in ("simulstream.jsonl", "simulstream-tentative.jsonl"):
        assert (tmp_path / log).read_text().count("wav_name") == 1
    assert (tmp_path / "es-en" / "hypothesis.jsonl").is_file()


def test_a_missing_scorer_is_told_before_anything_is_heard(capsys, monkeypatch):
    monkeypatch.setattr(live, "find_spec", {}.get)
    with pytest.raises(SystemExit) as ended:
        live.main(["--policies"])

    assert ended.value.code == 2
    assert "the scorer is not installed: pip install 'surtitle[bench]'" in capsys.readouterr().err


def test_people_are_heard_instead(babbler, capsys, monkeypatch, recording, tmp_path):
    """Recordings are sent as talks are, here without a service; what is not about them is left out."""
    pytest.importorskip("omnisteval")

    async def hear(_model, talks, policy, _frame):
        config = StreamConfig(policy=policy, max_new_tokens=4)
        return [
            live.hear_fast(babbler, t.waveform, t.source, replace(config, targets=(t.target,))) for t in talks
        ]

    monkeypatch.setattr(live, "_hear_all_from_own", hear)
    soundfile.write(tmp_path / "one.flac", read_audio(recording)[8_000:40_000], 16_000)
    row = "one.flac\tes\tEl gato\ten: The cat"
    (tmp_path / "manifest.tsv").write_text(f"file\tlang\ttranscript\ttranslation\n{row}\n")
    live.main(["--human", str(tmp_path), "--model", str(babbler.folder), "--output", str(tmp_path / "out")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert result["sentences"] == 1
    assert result["directions"].keys() == {"es-en"}
    assert {"longyaal_cu_s", "wer", "bleu_live", "bleu_offline", "final_p95_s"} <= result.keys()
    assert not {"hallucinated_words", "cost_4_targets"} & result.keys()
    assert (tmp_path / "out" / "es-en" / "references.txt").read_text() == "The cat\n"


def test_figures_are_means_over_directions_and_percentiles_of_all_sentences(monkeypatch, tmp_path):
    talks = [
        Talk(f"{source}.wav", source, target, np.zeros(0, np.float32), [Sentence(0, 2.0, "a", "b")], [])
        for source, target in (("es", "en"), ("en", "es"))
    ]
    about = {"utterance": 0, "start": 0.0, "end": 2.0, "stable": "b", "tentative": "", "final": True}
    heard = [
        [Arrival(Translation(**about, audio_time=2.0, target=talk.target), 2.0 + late)]
        for talk, late in zip(talks, (0.4, 0.8), strict=True)
    ]
    scores = iter([{"BLEU": 10.0, "chrF": 1.0}, {"BLEU": 30.0, "chrF": 3.0}])
    monkeypatch.setattr(live, "omnisteval", lambda *_: next(scores))
    overall, by_direction = live.measure(talks, heard, tmp_path)

    assert overall["bleu_live"] == 20
    assert [row["bleu_live"] for row in by_direction.values()] == [10, 30]
    assert overall["final_p50_s"] == pytest.approx(0.6)
    assert by_direction["en-es"]["final_p95_s"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--direction", "es-en", "es-zh"], "no es-zh; there are es-en, en-es"),
        (["--frame", "10"], "--frame from 20 to 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(checkpoint, capsys, options, said):
    with pytest.raises(SystemExit, match="2"):
        live.main([*options, "--model", str(checkpoint)])

    assert said in capsys.readouterr().err
