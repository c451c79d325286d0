"""Sentences to speech, in parallel: numbered chunk files that training reads while later ones are made.

A chunk is some sentences of one language read by one voice; their translations are in one language too.
Which sentences chunk *n* holds and who reads them, how fast and how high, depends on the text, the seed, the
engines and *n* alone. The samples may differ a little from one making to the next: libraries' own noise goes
on from one sentence to the next.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.training.codecs import opus
from pipeline.training.crews import Crew, work_off
from pipeline.training.engines import ENGINES, training_voices
from pipeline.training.neural import KokoroVoice, speak_together
from pipeline.training.text import ENGLISH, Pair, by_language, shares
from pipeline.training.voices import Speech, Voice

CHUNK = 48
"""Sentences in a chunk."""
SPEAKING_PROCESSES = 2
"""For each GPU, of voices that speak on one: while one is at the phonemes, the other uses it."""
SPEAKING_FIRST = 4
"""The same before training begins, when nothing else uses the GPU."""
SPEAKING_BESIDE = 0
"""The same beside a training that was spoken for first: it has what it needs of them, and lacks time."""
TOGETHER = 8
"""Chunks that such a process makes at a time."""

Item = tuple[int, str, list[int]]
"""What a chunk is to hold: its index, the language, indices of the sentences."""


@dataclass(frozen=True)
class Chunk:
    """What one chunk file holds.

    Args:
        language: spoken in the chunk.
        voice: who speaks.
        sentences: index of each utterance's pair in the training text, int32 [n].
        lengths: samples of each utterance, int64 [n].
        pcm: all utterances in a row, int16 [sum of lengths].
        word_counts: words of which the end is known, int32 [n]; 0 where the engine does not tell.
        word_ends: samples into its utterance at which each word ends, int32 [sum of word_counts].
    """

    language: str
    voice: str
    sentences: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    pcm: npt.NDArray[np.int16]
    word_counts: npt.NDArray[np.int32]
    word_ends: npt.NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        partial_path = path.with_suffix(".partial")
        with partial_path.open("wb") as file:
            np.savez(file, **vars(self))
        partial_path.rename(path)

    @classmethod
    def load(cls, path: Path) -> Chunk:
        """Read what :meth:`save` wrote."""
        with np.load(path) as raw:
            values = {name: raw[name] for name in raw.files}
        return cls(**{**values, "language": str(values["language"]), "voice": str(values["voice"])})


_CHUNK = re.compile(r"chunk-(\d{6,})\.npz")


def chunk_path(folder: Path, index: int) -> Path:
    """Where chunk ``index`` lies."""
    return folder / f"chunk-{index:06d}.npz"


def plan(pairs: Sequence[Pair], seed: int) -> Iterator[Item]:
    """Endless chunks of ``pairs``, by language and in either direction.

    Each pass through the pairs of a language reads every sentence once, and each through their English reads
    every translation once. Languages take turns by their shares (:func:`pipeline.training.text.shares`).
    English is a side of all pairs, but not as hard to hear as all other languages together: it has as much as
    the square root of their number of them has.
    """
    indices = by_language(pairs)
    often = shares({language: len(own) for language, own in indices.items()})
    streams, weights = [], []
    for language, own in indices.items():
        for spoken, weight in ((language, 1.0), (ENGLISH, len(indices) ** -0.5)):
            if some := [index for index in own if pairs[index].side(spoken)]:
                streams.append(_passes(some, spoken, seed))
                weights.append(often[language] * weight)
    made = [0] * len(streams)
    for index in itertools.count():
        # Whoever is furthest behind its share; with equal shares, all in turn.
        turn = min(range(len(streams)), key=lambda stream: made[stream] / weights[stream])
        made[turn] += 1
        yield (index, *next(streams[turn]))


def _passes(indices: Sequence[int], language: str, seed: int) -> Iterator[tuple[str, list[int]]]:
    for epoch in itertools.count():
        order = list(indices)
        Random(repr((seed, epoch, language))).shuffle(order)
        for start in range(0, len(order), CHUNK):
            yield language, order[start : start + CHUNK]


def _random(seed: int, item: Item) -> Random:
    return Random(f"{seed}-{item[0]}")


@cache
def _voices(language: str, engines: tuple[str, ...]) -> list[tuple[float, list[Voice]]]:
    # Hundreds, and there is a draw for every chunk of the plan before the first of them is made.
    return training_voices(language, engines)


def draw_voice(language: str, random: Random, engines: Collection[str] = ENGINES) -> Voice:
    """A voice for a chunk: first the group by its share, then any voice of it."""
    groups = _voices(language, tuple(engines))
    voices = random.choices([voices for _, voices in groups], [share for share, _ in groups])[0]
    return random.choice(voices)


def speak_chunks(
    pairs: Sequence[Pair],
    seed: int,
    items: Sequence[Item],
    engines: Collection[str] = ENGINES,
    coded: float = 0.0,
) -> Iterator[tuple[int, Chunk]]:
    """Make some chunks of :func:`plan`; sentences that the voice cannot say are left out of its chunk.

    Args:
        pairs: the training text.
        seed: of the voices and how they speak.
        items: of the plan.
        engines: whose voices speak.
        coded: share of the sentences that go through Opus.

    Raises:
        OSError: the engine or the voice is not installed.
    """
    randoms = [_random(seed, item) for item in items]
    voices = [
        draw_voice(language, random, engines) for (_, language, _), random in zip(items, randoms, strict=True)
    ]
    texts = [[pairs[i].side(language) for i in sentences] for _, language, sentences in items]
    asked = list(zip(voices, texts, randoms, strict=True))
    neural = [(voice, own, random) for voice, own, random in asked if isinstance(voice, KokoroVoice)]
    together = iter(speak_together(neural) if neural else ())
    for item, (voice, own, random) in zip(items, asked, strict=True):
        said = next(together) if isinstance(voice, KokoroVoice) else voice.speak(own, random)
        if coded:
            said = [_coded(s, random) if s is not None and random.random() < coded else s for s in said]
        yield item[0], _chunk(item, voice, own, said)


def _chunk(item: Item, voice: Voice, texts: Sequence[str], said: Sequence[Speech | None]) -> Chunk:
    _, language, sentences = item
    spoken = [(i, text, s) for i, text, s in zip(sentences, texts, said, strict=True) if s is not None]
    ends = [s.word_ends if len(s.word_ends) == len(text.split()) else () for _, text, s in spoken]
    return Chunk(
        language,
        voice.name,
        np.array([i for i, _, _ in spoken], np.int32),
        np.array([len(s.pcm) for _, _, s in spoken], np.int64),
        np.concatenate([s.pcm for _, _, s in spoken]) if spoken else np.empty(0, np.int16),
        np.array([len(e) for e in ends], np.int32),
        np.array([end for e in ends for end in e], np.int32),
    )


def _coded(speech: Speech, random: Random) -> Speech:
    # From the worst that calls are reduced to, to what cannot be told from the original.
    bits_per_second = round(math.exp(random.uniform(math.log(6_000), math.log(48_000))))
    return Speech(opus(speech.pcm, bits_per_second), speech.word_ends)


def _begin(text: bytes, gpu: int | None, **settings: Any) -> Callable[[Sequence[Item]], None]:
    """What a process of :func:`synthesise` does with its tasks."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    # Pickled once for all processes: of hundreds of thousands of sentences it takes seconds.
    pairs: Sequence[Pair] = pickle.loads(text)  # noqa: S301 (of this program)
    return partial(_make, pairs, **settings)


def _make(
    pairs: Sequence[Pair],
    items: Sequence[Item],
    *,
    folder: Path,
    seed: int,
    engines: Collection[str],
    coded: float,
    until: float,
) -> None:
    # What is begun is finished: half of a chunk is none.
    if time.monotonic() >= until:
        return
    for index, chunk in speak_chunks(pairs, seed, items, engines, coded):
        chunk.save(chunk_path(folder, index))


def claim(folder: Path, pairs: Sequence[Pair], seed: int) -> None:
    """Mark a folder of chunks with the text and the seed that they are made from; make it if need be.

    Chunks name their sentences by number: with another text they would teach that speech means anything.

    Raises:
        ValueError: the folder was marked for another text or another seed.
    """
    digest = hashlib.sha256(repr((seed, [(pair.source, pair.target) for pair in pairs])).encode())
    mark = folder / "made-from.sha256"
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        mark.write_text(digest.hexdigest(), encoding="ascii")
    elif mark.read_text(encoding="ascii") != digest.hexdigest():
        raise ValueError(f"{folder}: speech is there of another text or another seed; name an empty folder")


def present(folder: Path, chunks: int) -> list[int]:
    """Which of the first ``chunks`` chunks are there, in order."""
    numbers = (int(found[1]) for name in os.listdir(folder) if (found := _CHUNK.fullmatch(name)))
    return sorted(number for number in numbers if number < chunks)


def complete(folder: Path, chunks: int) -> bool:
    """Whether the first ``chunks`` chunks are all there."""
    return folder.is_dir() and len(present(folder, chunks)) == chunks


def synthesise(
    pairs: Sequence[Pair],
    folder: Path,
    *,
    chunks: int,
    processes: int,
    seed: int,
    engines: Collection[str] = ENGINES,
    coded: float = 0.0,
    per_gpu: int = SPEAKING_PROCESSES,
    seconds: float = math.inf,
) -> None:
    """Make the first chunks of the plan, those that are there already excepted.

    Args:
        pairs: the training text.
        folder: where chunks are and come, from :func:`claim`.
        chunks: how many.
        processes: how many of them are made at a time, beside those that GPUs make.
        seed: of the plan, the voices and how they speak.
        engines: whose voices speak.
        coded: share of the sentences that go through Opus.
        per_gpu: processes of voices that speak on a GPU, for each; with 0 these voices are left out there.
        seconds: after so many no chunk is begun any more.

    Raises:
        OSError: an engine or one of its voices is not installed.
        RuntimeError: processes are killed before they begin.
    """
    begin = partial(
        _begin,
        pickle.dumps(pairs),
        folder=folder,
        seed=seed,
        engines=engines,
        coded=coded,
        until=time.monotonic() + seconds,
    )
    gpus = range(torch.cuda.device_count())
    on_cpu: list[list[Item]] = []
    neural: list[Item] = []
    for item in itertools.islice(plan(pairs, seed), chunks):
        if not chunk_path(folder, item[0]).exists():
            if gpus and isinstance(draw_voice(item[1], _random(seed, item), engines), KokoroVoice):
                neural.append(item)
            else:
                on_cpu.append([item])
    on_gpu = [neural[at : at + TOGETHER] for at in range(0, len(neural), TOGETHER)]
    crews = [Crew(on_cpu, processes, partial(begin, None))]
    # Not any process, on any GPU: each one more takes its memory and its share of the time of training.
    crews += [Crew(on_gpu[gpu :: len(gpus)], per_gpu, partial(begin, gpu)) for gpu in gpus]
    # The engines are C libraries with global state and their own threads: one process each, forked from one
    # that has not loaded any.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work_off(crews, preload=[__name__])


@contextmanager
def in_background(make: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Run ``make``, a partial :func:`synthesise`, in a process of its own, no longer than the block runs.

    Yields:
        Tells whether it is still at work.
    """
    process = multiprocessing.get_context("spawn").Process(target=_until_terminated, args=(make,))
    process.start()
    try:
        yield process.is_alive
    finally:
        process.terminate()
        process.join()


def _until_terminated(make: Callable[[], None]) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit()

    # By default the signal would end this process alone and leave those of its pool behind.
    signal.signal(signal.SIGTERM, leave)
    make()
