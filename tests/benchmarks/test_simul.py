"""Scores of simultaneous translation, on events whose scores are known."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simul import (
    Arrival,
    Output,
    erasure,
    final_latencies,
    hypothesis,
    omnisteval,
    output,
    simulstream_log,
    write_simulstream_logs,
)
from benchmarks.talks import Sentence, Talk
from pipeline.wire.events import Ack, Done, Transcript, Translation


def said(utterance, at, stable, tentative="", *, final=False, late=0.1, end=None, kind=Translation):
    about = {"utterance": utterance, "start": 0.0, "end": at if end is None else end, "audio_time": at}
    about |= {"target": "en"} if kind is Translation else {}
    return Arrival(kind(**about, stable=stable, tentative=tentative, final=final), at + late)


END = Arrival(Done(audio_time=6.0), 6.1)

ARRIVALS = [
    said(0, 1.0, "", "the dog"),
    said(0, 1.5, "x", kind=Transcript),
    said(0, 2.0, "the cat", " eats"),
    Arrival(Ack(audio_time=2.0), 2.1),
    said(0, 3.0, "the cat sleeps.", final=True, late=0.4),
    said(1, 4.0, "yes", " no"),
    said(1, 5.0, "yes, it does", final=True),
    END,
]

TALK = Talk(
    "talk.wav",
    "es",
    "en",
    np.zeros(6 * 16_000, np.float32),
    [Sentence(0.5, 2.4, "el gato duerme.", "the cat sleeps."), Sentence(3.2, 4.5, "sí, sí", "yes, it does")],
    [],
)


def test_words_count_from_when_they_became_stable():
    assert output(ARRIVALS, "en") == Output(
        ["the", "cat", "sleeps.", "yes,", "it", "does"],
        [2.0, 2.0, 3.0, 4.0, 5.0, 5.0],
        pytest.approx([2.1, 2.1, 3.4, 4.1, 5.1, 5.1]),
    )
    assert output(ARRIVALS, None).words == ["x"]


def test_what_is_taken_back_is_erasure():
    # "dog", "eats", "no" of six final words; "yes" only grew.
    assert erasure(ARRIVALS, "en", tentative=True) == pytest.approx(3 / 6)
    assert erasure(ARRIVALS, "en", tentative=False) == 0
    broken = [said(0, 1.0, "a b"), said(0, 2.0, "a c", final=True)]
    assert erasure(broken, "en", tentative=False) == pytest.approx(1 / 2)


def test_finals_are_late_by_the_time_since_the_end_of_their_last_sentence():
    arrivals = [
        said(0, 3.0, "the cat", final=True, late=0.4, end=2.6),
        said(1, 5.0, "", final=True, end=4.6),
        said(2, 9.0, "noise", final=True, end=8.0),
    ]

    assert final_latencies(arrivals, TALK) == pytest.approx([1.0])


def test_the_hypothesis_has_a_delay_for_each_word_in_milliseconds():
    line = hypothesis(TALK, output(ARRIVALS, "en"))

    assert len(line["prediction"].split()) == len(line["delays"]) == len(line["elapsed"]) == 6
    assert line["delays"][:3] == [2000, 2000, 3000]
    assert line["source_length"] == 6000


def test_a_reader_of_the_log_ends_up_with_the_final_text():
    lines = simulstream_log([TALK], [ARRIVALS], tentative=True)
    assert lines[0] == {"id": 0, "metadata": {"wav_name": "talk.wav"}}
    shown = []
    for line in map(json.loads, map(json.dumps, lines[1:])):
        if line["deleted_tokens"]:
            assert shown[-len(line["deleted_tokens"]) :] == line["deleted_tokens"]
            del shown[-len(line["deleted_tokens"]) :]
        shown += line["generated_tokens"]

    assert "".join(shown) == "▁the▁cat▁sleeps.▁yes,▁it▁does"
    assert [line["computation_time"] for line in lines[1:]] == pytest.approx([0.1, 0.1, 0.4, 0.1, 0.1, 0.1])
    assert lines[-1]["total_audio_processed"] == 6.0


def test_a_log_of_stable_text_takes_nothing_back():
    lines = simulstream_log([TALK], [ARRIVALS], tentative=False)[1:]

    assert [line["generated_tokens"] for line in lines] == [
        *([], ["▁the", "▁cat"], ["▁sleeps."], ["▁yes"], [",", "▁it", "▁does"], []),
    ]
    assert not any(line["deleted_tokens"] for line in lines)


@pytest.fixture(name="logs")
def _logs(tmp_path):
    """The files for simulstream's scorer, and those of OmniSTEval that it reads as well."""
    talks, heard = [TALK, replace(TALK, name="silent.wav")], [ARRIVALS, [END]]
    write_simulstream_logs(talks, heard, tmp_path)
    sentences = [{"wav": TALK.name, "offset": s.start, "duration": s.end - s.start} for s in TALK.sentences]
    (tmp_path / "segmentation.yaml").write_text(json.dumps(sentences))
    (tmp_path / "references.txt").write_text("".join(f"{s.meant}\n" for s in TALK.sentences))
    return tmp_path


def scored(simulstream, logs, module, log, *options):
    command = [simulstream, "-m", f"simulstream.metrics.{module}", "--eval-config", logs / "simulstream.yaml"]
    command += ["--log-file", logs / log, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize(
    ("log", "taken_back"), [("simulstream.jsonl", 0), ("simulstream-tentative.jsonl", 3 / 6)]
)
def test_simulstream_counts_what_was_taken_back_as_we_do(simulstream, logs, log, taken_back):
    stats = json.loads(scored(simulstream, logs, "stats", log).partition("Stats: ")[2])

    assert stats["normalized_erasure"]["value"] == pytest.approx(taken_back)
    assert taken_back == erasure(ARRIVALS, "en", tentative="tentative" in log)


def test_simulstream_scores_the_latency_of_the_log(simulstream, logs):
    """StreamLAAL by hand, of the words of each sentence until its end."""
    options = ["--audio-definition", logs / "segmentation.yaml", "--reference", logs / "references.txt"]
    said = scored(
        simulstream, logs, "score_latency", "simulstream.jsonl", *options, "--scorer", "stream_laal"
    )
    ideal, aware = map(float, re.findall(r"latency=([\d.]+)", said))

    def laal(delays, length):
        until = next(i for i, delay in enumerate(delays, 1) if delay >= length or i == len(delays))
        return sum(delay - i * length / 3 for i, delay in enumerate(delays[:until])) / until

    first, second = ([1.5, 1.5, 2.5], 1.9), ([1.8, 1.8, 1.8], 1.3)
    assert ideal == pytest.approx((laal(*first) + laal(*second)) / 2, abs=0.01)
    assert aware > ideal


def test_omnisteval_finds_a_perfect_translation_perfect_and_a_late_one_late(tmp_path):
    pytest.importorskip("omnisteval")
    words = [word for sentence in TALK.sentences for word in sentence.meant.split()]
    ends = [sentence.end for sentence in TALK.sentences for _ in sentence.meant.split()]
    scores = [
        omnisteval([TALK], [Output(words, [end + late for end in ends], [end + 1 for end in ends])], tmp_path)
        for late in (0.0, 0.5)
    ]

    assert [score["BLEU"] for score in scores] == [pytest.approx(100)] * 2
    assert scores[1]["LongYAAL (CU)"] - scores[0]["LongYAAL (CU)"] == pytest.approx(500, abs=1)
    assert scores[0]["LongYAAL (CA)"] - scores[0]["LongYAAL (CU)"] == pytest.approx(1000, abs=1)


def test_what_omnisteval_says_when_it_fails_is_told(tmp_path):
    pytest.importorskip("omnisteval")
    with pytest.raises(RuntimeError, match="delays do not match"):
        omnisteval([TALK], [Output(["a", "b"], [1.0], [1.0])], tmp_path)
