"""The log-mel front end beside transformers' feature extractor: same audio, same run.

    python -m benchmarks.mel [--seconds 20] [--piece 0.1] [--repeat 20]

Three ways are timed in turn: transformers on the whole clip, ours on the whole clip, and ours on the clip in
pieces as a live stream brings them. Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from transformers import Gemma3nAudioFeatureExtractor

from pipeline.audio.mel import MelFrontend, log_mel
from pipeline.config import SAMPLE_RATE


def speech_like(seconds: float) -> NDArray[np.float32]:
    """A pulse train with moving pitch and level, and noise: energy in every bin."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(130 + 40 * np.sin(2 * np.pi * 0.7 * t)) / SAMPLE_RATE
    voice = sum(np.sin(n * phase) / n for n in range(1, 30)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.2 * voice + 0.01 * noise).astype(np.float32)


def seconds_of(runs: list[Callable[[], object]], repeat: int) -> list[float]:
    """Median time of each of ``runs``, taken in turn so that a busy machine disturbs all alike."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeat):
        for run, taken in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the clip, at most 30")
    parser.add_argument("--piece", type=float, default=0.1, help="length of a live piece")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    if not 0.1 <= options.seconds <= 30:
        parser.error("--seconds must be from 0.1 to 30, where the reference truncates")

    waveform = speech_like(options.seconds)
    reference = Gemma3nAudioFeatureExtractor()
    piece = round(options.piece * SAMPLE_RATE)
    pieces = [waveform[i : i + piece] for i in range(0, len(waveform), piece)]

    def theirs() -> NDArray[np.float32]:
        features: NDArray[np.float32] = reference(waveform, return_tensors="np")["input_features"][0]
        return features

    def live() -> NDArray[np.float32]:
        frontend = MelFrontend()
        return np.concatenate([*[frontend.push(piece) for piece in pieces], frontend.flush()])

    def whole() -> NDArray[np.float32]:
        return log_mel(waveform)

    error = float(np.abs(theirs() - live()).max())
    their_time, whole_time, live_time = seconds_of([theirs, whole, live], options.repeat)
    result = {
        "seconds": options.seconds,
        "piece": options.piece,
        "largest_error": error,
        "transformers_real_time_factor": their_time / options.seconds,
        "whole_real_time_factor": whole_time / options.seconds,
        "live_real_time_factor": live_time / options.seconds,
        "live_microseconds_per_piece": live_time / len(pieces) * 1e6,
        "speedup_whole": their_time / whole_time,
        "speedup_live": their_time / live_time,
    }
    for name, taken in (("transformers", their_time), ("whole", whole_time), ("live", live_time)):
        speed = options.seconds / taken
        print(f"{name:>12}: {taken * 1e3:8.2f} ms for {options.seconds:g} s, {speed:7.0f} x real time")
    print(f"largest difference from transformers: {error:.1e}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
