"""Live streams by the clock on the wall: encoder and decoder in threads, beside each other on one GPU.

In a service they are processes of their own, which share a GPU where there is but one. Threads share Python
besides, so what is measured here is not better than that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from benchmarks.lives import Live, Stage
from pipeline.model import Gemma3n


@dataclass
class Worked:
    """What it took.

    Attributes:
        encoding_s: seconds in which the encoder worked.
        decoding_s: seconds in which the decoder worked.
        rounds: of the decoder.
        segments: that it was asked for.
        longest_s: seconds of its longest round.
    """

    encoding_s: float = 0.0
    decoding_s: float = 0.0
    rounds: int = 0
    segments: int = 0
    longest_s: float = 0.0


@dataclass
class _Shared:
    """What both threads know.

    Attributes:
        lives: the streams.
        begun: when the first of them began, by the clock on the wall.
        worked: what it took so far.
        news: whether the decoder has something to look at.
        over: whether nothing more will be encoded.
        failed: whether the decoder has ended before that.
    """

    lives: Sequence[Live]
    begun: float = field(default_factory=time.perf_counter)
    worked: Worked = field(default_factory=Worked)
    news: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    failed: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun


def run(model: Gemma3n, lives: Sequence[Live]) -> Worked:
    """Have streams spoken as time goes by, until all that they said has been translated.

    Args:
        model: encodes and decodes.
        lives: the streams; when finals came is noted in them.
    """
    if torch.cuda.is_available():
        # What was prepared on the one stream is used on the other.
        torch.cuda.synchronize()
    shared = _Shared(lives)
    with ThreadPoolExecutor(1) as beside:
        encoded = beside.submit(_encode, model, shared)
        try:
            _decode(model, shared)
        except BaseException:
            shared.failed.set()
            raise
        encoded.result()
    return shared.worked


def _encode(model: Gemma3n, shared: _Shared) -> None:
    try:
        # On a GPU its kernels are to find room beside those of the decoder, and not to wait for them.
        with torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext():  # type: ignore[no-untyped-call]
            _keep_encoding(model, shared)
    finally:
        shared.over.set()
        shared.news.set()


def _keep_encoding(model: Gemma3n, shared: _Shared) -> None:
    encoders = Stage.encoding(model.ears.encode)
    while not shared.failed.is_set():
        for live in shared.lives:
            live.arrive(shared.now())
        begun = time.perf_counter()
        for live, heard in encoders.round(shared.lives):
            live.events += heard
            shared.news.set()
        shared.worked.encoding_s += time.perf_counter() - begun
        if not (encoders.busy or any(live.pieces for live in shared.lives)):
            arrival = min(live.next_arrival for live in shared.lives)
            if arrival == float("inf"):
                return
            # Until somebody has said more.
            time.sleep(max(0.0, arrival - shared.now()))


def _decode(model: Gemma3n, shared: _Shared) -> None:
    worked, decoders = shared.worked, Stage.decoding(model.step)
    while True:
        # In this order, and both before looking: what comes after that is news again.
        shared.news.clear()
        over = shared.over.is_set()
        begun = time.perf_counter()
        said = decoders.round(shared.lives)
        if not (said or decoders.busy):
            if over:
                break
            shared.news.wait()
            continue
        for live, events in said:
            live.note(events, shared.now())
        took = time.perf_counter() - begun
        worked.decoding_s, worked.longest_s = worked.decoding_s + took, max(worked.longest_s, took)
    worked.rounds, worked.segments = decoders.passes, decoders.works
