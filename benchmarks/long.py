"""Hours in one stream: memory, times and quality at the end as at the beginning.

    python -m benchmarks.long [--hours 2] [--model DIR] [--sentences 40]

A talk of held-out Spanish sentences (:mod:`benchmarks.talks`; needs ``espeak-ng``), some with pauses between
them and some without, is said again and again for so many hours and fed to one stream as fast as it goes, in
this process, as a live client would: partial hypotheses come every 640 ms of speech. A minute before the end,
in the middle of a sentence, there is a click of 10 ms at full scale, louder than all else.

Measured: resident memory, from when a tenth of the time has passed to the end, as the slope of a straight
line over all of that (``memory_growth``, a fraction of the memory at its beginning); how far from its place
the click is in what the gate hands to the model (``click_error_s``); starts and ends of utterances, as they
are told, against the truth, as medians of absolute errors (``start_error_s``, ``end_error_s``); WER over the
first and the last tenth of the time, of the same sentences (``wer_first``, ``wer_last``); and how fast it
went (``rtf``). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import NANO
from benchmarks.quality import ENGINES, held_out_pairs, normalise, spoken
from benchmarks.talks import Talk, compose
from pipeline.audio.pcm import to_s16le
from pipeline.chunks.gate import SpeechAudio, SpeechGate
from pipeline.config import BEAMS, SAMPLE_RATE, GateConfig, StreamConfig
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire.events import Event, SpeechEnd, SpeechStart, Transcript

STEP = SAMPLE_RATE
"""Samples that are fed at once."""

CLICK = SAMPLE_RATE // 100
"""Samples of the click."""

CLICK_BEFORE_END = 60.0
"""Seconds before the end of the audio at which the click is, or later in shorter runs."""


@dataclass(frozen=True)
class Long:
    """What came of a long stream.

    Attributes:
        events: all of them.
        memory: resident bytes after each second of audio.
        seconds: of audio.
        took: seconds on the clock.
    """

    events: list[Event]
    memory: NDArray[np.int64]
    seconds: float
    took: float


def resident() -> int:
    """Bytes of memory that this process has resident."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def run(model: Gemma3n, audio: Callable[[int], NDArray[np.float32]], steps: int) -> Long:
    """Feed a stream.

    Args:
        model: to use.
        audio: the samples of a step, by its number.
        steps: how many there are.
    """
    stream = Stream(model, "es", ["en"], config=StreamConfig(beams=BEAMS))
    events: list[Event] = []
    memory = np.zeros(steps, np.int64)
    begin = time.perf_counter()
    for step in range(steps):
        events += [event for event in stream.feed(to_s16le(audio(step))) if _kept(event)]
        memory[step] = resident()
    events += [event for event in stream.close() if _kept(event)]
    return Long(events, memory, steps * STEP / SAMPLE_RATE, time.perf_counter() - begin)


def _kept(event: Event) -> bool:
    return isinstance(event, SpeechStart | SpeechEnd) or (isinstance(event, Transcript) and event.final)


def growth(memory: NDArray[np.int64]) -> float:
    """How much memory grew behind the first tenth, by a straight line, as a fraction of what it was there."""
    settled = memory[len(memory) // 10 :].astype(np.float64)
    slope, start = np.polyfit(np.arange(len(settled)), settled, 1)
    return float(slope * len(settled) / start)


def edges(events: Sequence[Event], talk: Talk, period: float) -> tuple[float, float]:
    """Median absolute errors of starts and ends of utterances, against the nearest that sentences have."""
    starts = np.array([sentence.start for sentence in talk.sentences])
    ends = np.array([sentence.end for sentence in talk.sentences])
    seams = {event.time for event in events if isinstance(event, SpeechStart)}
    seams &= {event.time for event in events if isinstance(event, SpeechEnd)}
    off_starts, off_ends = [], []
    for event in events:
        if isinstance(event, SpeechStart) and event.time not in seams:
            off_starts.append(np.abs(starts - event.time % period).min())
        if isinstance(event, SpeechEnd) and event.time not in seams:
            off_ends.append(np.abs(ends - event.time % period).min())
    return float(np.median(off_starts)), float(np.median(off_ends))


def wer(events: Sequence[Event], talk: Talk, first: int, last: int, period: float) -> float:
    """WER over repetitions ``first`` to ``last`` of a talk, that one not included."""
    heard = [
        event.stable
        for event in events
        if isinstance(event, Transcript) and first * period <= (event.start + event.end) / 2 < last * period
    ]
    said = [sentence.said for sentence in talk.sentences] * (last - first)
    return float(jiwer.wer(normalise(" ".join(said)), normalise(" ".join(heard))))


def click_error(audio: Callable[[int], NDArray[np.float32]], steps: int, at: float) -> float:
    """How far from its place the stream has a click that falls into speech, in seconds.

    The gate counts samples from the start of the stream, and all times are these counts.
    """
    gate, nearest = SpeechGate(GateConfig()), float("inf")
    for step in range(steps):
        for item in gate.push(audio(step)):
            if isinstance(item, SpeechAudio):
                loud = np.flatnonzero(np.abs(item.samples) > 0.98)
                if len(loud):
                    nearest = min(nearest, abs((item.start + int(loud[0])) / SAMPLE_RATE - at))
    return nearest


def repeated(talk: Talk, seconds: float, click_at: float) -> tuple[Callable[[int], NDArray[np.float32]], int]:
    """A talk again and again, with a click: the samples of a step by its number, and how many steps."""
    wave = talk.waveform * np.float32(0.5 / np.abs(talk.waveform).max())
    begin = round(click_at * SAMPLE_RATE)

    def audio(step: int) -> NDArray[np.float32]:
        places = np.arange(step * STEP, (step + 1) * STEP)
        samples = wave[places % len(wave)]
        samples[(places >= begin) & (places < begin + CLICK)] = 0.99
        return samples

    return audio, round(seconds * SAMPLE_RATE) // STEP


def measure(model: Gemma3n, talk: Talk, seconds: float) -> dict[str, float]:
    """Run a long stream and score it."""
    period = len(talk.waveform) / SAMPLE_RATE
    # In the middle of a sentence: what is in no speech is handed to no model.
    latest = max(seconds / 2, seconds - CLICK_BEFORE_END)
    middles = [
        turn * period + (sentence.start + sentence.end) / 2
        for turn in range(int(seconds / period) + 1)
        for sentence in talk.sentences
    ]
    click_at = min(middles, key=lambda middle: abs(middle - latest))
    audio, steps = repeated(talk, seconds, click_at)
    long = run(model, audio, steps)
    start_error, end_error = edges(long.events, talk, period)
    turns = int(seconds / period)
    tenth = max(1, turns // 10)
    return {
        "hours": seconds / 3600,
        "memory_growth": growth(long.memory),
        "memory_mb": float(long.memory[-1]) / 1e6,
        "click_error_s": click_error(audio, steps, click_at),
        "start_error_s": start_error,
        "end_error_s": end_error,
        "wer_first": wer(long.events, talk, 0, tenth, period),
        "wer_last": wer(long.events, talk, turns - tenth, turns, period),
        "rtf": long.took / long.seconds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    parser.add_argument("--sentences", type=int, default=40, help="in the talk that is repeated")
    options = parser.parse_args(argv)
    if options.hours <= 0 or options.sentences < 2:
        parser.error("--hours must be above 0 and --sentences at least 2")
    torch.set_num_threads(1)
    clips = spoken(held_out_pairs()[: options.sentences], ENGINES["espeak-ng"]("es"))
    talk = compose("long-es.wav", "es", "en", clips, pauses=(0.0, 1.4))
    result = measure(Gemma3n.from_pretrained(options.model), talk, options.hours * 3600)
    for name, value in result.items():
        print(f"{name:<16}{value:>10.4f}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
