"""Scores of simultaneous translation, from the events of a stream and when they came.

The field's own scorer does the latency and the quality: OmniSTEval (Polák et al. 2025, arXiv:2509.17349)
re-segments a stream's output to the reference's sentences and computes LongYAAL, LAAL, BLEU and chrF. What it
does not know, how much of what was shown was taken back (normalised erasure, Arivazhagan et al. 2020,
arXiv:1912.03393) and how long after the end of speech final text comes, is computed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.talks import Talk
from pipeline.config import SAMPLE_RATE
from pipeline.text.stability import words
from pipeline.wire.events import Done, Event, Transcript, Translation, UtteranceText

AFTER_SPEECH = 1.0
"""Seconds between the end of an utterance and that of the sentence that it ends with, at most."""

SPACE = "\u2581"
"""A space in a token, as SentencePiece writes it."""

JOINED = "detokenizer_type: simuleval\nlatency_unit: spm\n"
"""Tells simulstream's scorer that such tokens are those of its log."""


@dataclass(frozen=True)
class Arrival:
    """An event, and how many seconds after the first audio it came."""

    event: Event
    elapsed: float


@dataclass(frozen=True)
class Output:
    """All stable words of one text of a stream, with when each of them came.

    Args:
        words: in order.
        delays: seconds of audio that had been heard when they were said: computation-unaware.
        elapsed: seconds on the clock: computation-aware.
    """

    words: list[str]
    delays: list[float]
    elapsed: list[float]


def texts(arrivals: Sequence[Arrival], target: str | None) -> list[tuple[UtteranceText, float]]:
    """Events of the translation into ``target``, or of the transcript, and when they came."""
    return [
        (arrival.event, arrival.elapsed)
        for arrival in arrivals
        if (isinstance(arrival.event, Transcript) and target is None)
        or (isinstance(arrival.event, Translation) and arrival.event.target == target)
    ]


def output(arrivals: Sequence[Arrival], target: str | None) -> Output:
    """The words of a text, each at the time when it became stable."""
    result = Output([], [], [])
    begins: dict[int, int] = {}
    for event, elapsed in texts(arrivals, target):
        said = event.stable.split()
        begin = begins.setdefault(event.utterance, len(result.words))
        new = len(said) - (len(result.words) - begin)
        # A word may grow at its end, it counts from when it came.
        result.words[begin:] = said
        result.delays.extend([event.audio_time] * new)
        result.elapsed.extend([elapsed] * new)
    return result


def erasure(arrivals: Sequence[Arrival], target: str | None, *, tentative: bool) -> float:
    """Normalised erasure: words that were shown and taken back, per word of the final text.

    Args:
        arrivals: of a stream.
        target: of the translation; None for the transcript.
        tentative: whether the tentative text counts as shown, or the stable text alone.
    """
    taken_back = final = 0
    shown: dict[int, list[str]] = {}
    for event, _ in texts(arrivals, target):
        before = shown.get(event.utterance, [])
        now = [word.strip() for word in words(event.stable + (event.tentative if tentative else ""))]
        # A word that only grew, by a full stop for instance, was not taken back.
        alike = [new.startswith(old) for old, new in zip(before, now, strict=False)]
        taken_back += len(before) - (alike.index(False) if False in alike else len(alike))
        shown[event.utterance] = now
        if event.final:
            final += len(now)
    return taken_back / max(1, final)


def final_latencies(arrivals: Sequence[Arrival], talk: Talk) -> list[float]:
    """Seconds from the end of a sentence to the final translation of the utterance that ends with it."""
    ends = np.array([sentence.end for sentence in talk.sentences])
    latencies = []
    for event, elapsed in texts(arrivals, talk.target):
        if not (event.final and event.stable):
            continue
        before = ends[ends <= event.end + 0.1]
        if len(before) and event.end - before[-1] <= AFTER_SPEECH:
            latencies.append(elapsed - float(before[-1]))
    return latencies


def hypothesis(talk: Talk, said: Output) -> dict[str, object]:
    """A line of OmniSTEval's hypothesis file; times in milliseconds."""
    return {
        "source": [talk.name],
        "prediction": " ".join(said.words),
        "delays": [1000 * delay for delay in said.delays],
        "elapsed": [1000 * elapsed for elapsed in said.elapsed],
        "source_length": 1000 * len(talk.waveform) / SAMPLE_RATE,
    }


def simulstream_log(
    talks: Sequence[Talk], heard: Sequence[Sequence[Arrival]], *, tentative: bool
) -> list[dict[str, object]]:
    """Lines of a log as simulstream's metrics read it: what each event added to and took from the text.

    Args:
        talks: one for each stream.
        heard: what came of each.
        tentative: whether the tentative text counts as shown, or the stable text alone.
    """
    lines: list[dict[str, object]] = []
    for number, (talk, arrivals) in enumerate(zip(talks, heard, strict=True)):
        lines.append({"id": number, "metadata": {"wav_name": talk.name}})
        shown: dict[int, list[str]] = {}
        for event, elapsed in texts(arrivals, talk.target):
            before = shown.get(event.utterance, [])
            kept, new = _change(before, event.stable + (event.tentative if tentative else ""))
            shown[event.utterance] = before[:kept] + new
            lines.append(_logged(number, event, elapsed, new, before[kept:]))
        # The scorer knows no talk without a line, and takes the length of the audio from the last one.
        ends = [arrival for arrival in arrivals if isinstance(arrival.event, Done)]
        lines += [_logged(number, end.event, end.elapsed, [], []) for end in ends]
    return lines


def _change(tokens: Sequence[str], text: str) -> tuple[int, list[str]]:
    """How many of the tokens of a text stay when it becomes ``text``, and those that come to them."""
    now = "".join(f" {word}" for word in text.split())
    kept = len(tokens)
    while not now.startswith("".join(tokens[:kept])):
        kept -= 1
    return kept, words(now[len("".join(tokens[:kept])) :])


def _logged(
    number: int, event: Event, elapsed: float, new: Sequence[str], deleted: Sequence[str]
) -> dict[str, object]:
    return {
        "id": number,
        "total_audio_processed": event.audio_time,
        "computation_time": max(0.0, elapsed - event.audio_time),
        "generated_tokens": [token.replace(" ", SPACE) for token in new],
        "deleted_tokens": [token.replace(" ", SPACE) for token in deleted],
    }


def write_simulstream_logs(talks: Sequence[Talk], heard: Sequence[Sequence[Arrival]], folder: Path) -> None:
    """Write what simulstream's scorer reads: a log of stable text, one of all text, and how tokens join."""
    for name, tentative in (("simulstream.jsonl", False), ("simulstream-tentative.jsonl", True)):
        lines = simulstream_log(talks, heard, tentative=tentative)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "simulstream.yaml").write_text(JOINED, encoding="utf-8")


def omnisteval(talks: Sequence[Talk], outputs: Sequence[Output], folder: Path) -> dict[str, float]:
    """Score the output of talks into one language with OmniSTEval; its files stay in ``folder``.

    Returns:
        Its scores by its names for them; latencies in milliseconds.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    segmentation = [
        {"wav": talk.name, "offset": sentence.start, "duration": sentence.end - sentence.start}
        for talk in talks
        for sentence in talk.sentences
    ]
    references = [sentence.meant for talk in talks for sentence in talk.sentences]
    lines = [hypothesis(talk, said) for talk, said in zip(talks, outputs, strict=True)]
    # YAML is a superset of JSON.
    (folder / "segmentation.yaml").write_text(json.dumps(segmentation), encoding="utf-8")
    (folder / "references.txt").write_text("".join(f"{text}\n" for text in references), encoding="utf-8")
    (folder / "hypothesis.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    command = [sys.executable, "-m", "omnisteval.cli", "longform", "--word_level"]
    command += ["--lang", talks[0].target, "--speech_segmentation", "segmentation.yaml"]
    command += ["--ref_sentences_file", "references.txt", "--hypothesis_file", "hypothesis.jsonl"]
    command += ["--output_folder", "scores"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"OmniSTEval failed:\n{done.stderr[-2000:]}")
    rows = (folder / "scores" / "scores.tsv").read_text(encoding="utf-8").splitlines()
    scores: dict[str, float] = {}
    for row in rows[1:]:
        name, value, *_ = row.split("\t")
        try:
            scores[name] = float(value)
        except ValueError:
            continue
    return scores
