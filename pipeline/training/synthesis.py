"""Sentences to speech, in parallel: numbered chunk files that training reads while later ones are made.

A chunk is some sentences of one language read by one voice. What is in chunk *n* depends on the seed and
*n* alone, not on the machine or on which process made it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

from pipeline.training.engines import Voice, training_voices
from pipeline.training.text import Pair

CHUNK = 48
"""Sentences in a chunk."""


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


def chunk_path(folder: Path, index: int) -> Path:
    """Where chunk ``index`` lies."""
    return folder / f"chunk-{index:06d}.npz"


def plan(count: int, seed: int) -> Iterator[tuple[int, str, list[int]]]:
    """Endless chunks: index, language, sentence indices; each pass reads every sentence once per language."""
    index = 0
    for epoch in itertools.count():
        orders = {language: _order(count, (seed, epoch, language)) for language in ("es", "en")}
        for start in range(0, count, CHUNK):
            for language, order in orders.items():
                yield index, language, order[start : start + CHUNK]
                index += 1


def _order(count: int, key: tuple[int, int, str]) -> list[int]:
    order = list(range(count))
    Random(repr(key)).shuffle(order)
    return order


def draw_voice(language: str, random: Random) -> Voice:
    """A voice for a chunk: first the engine by its share, then any of its voices."""
    engines = training_voices(language)
    voices = random.choices([voices for _, voices in engines], [share for share, _ in engines])[0]
    return random.choice(voices)


def speak_chunk(pairs: Sequence[Pair], seed: int, item: tuple[int, str, list[int]]) -> tuple[int, Chunk]:
    """Make one chunk of :func:`plan`; sentences that the voice cannot say are left out of it."""
    index, language, sentences = item
    random = Random(f"{seed}-{index}")
    voice = draw_voice(language, random)
    texts = [pairs[i].source if language == "es" else pairs[i].target for i in sentences]
    spoken = [(i, s) for i, s in zip(sentences, voice.speak(texts, random), strict=True) if s is not None]
    ends = [
        speech.word_ends if len(speech.word_ends) == len(text.split()) else ()
        for (_, speech), text in zip(
            spoken,
            (pairs[i].source if language == "es" else pairs[i].target for i, _ in spoken),
            strict=True,
        )
    ]
    return index, Chunk(
        language,
        voice.name,
        np.array([i for i, _ in spoken], np.int32),
        np.array([len(s.pcm) for _, s in spoken], np.int64),
        np.concatenate([s.pcm for _, s in spoken]) if spoken else np.empty(0, np.int16),
        np.array([len(e) for e in ends], np.int32),
        np.array([end for e in ends for end in e], np.int32),
    )


_pairs: Sequence[Pair] = ()


def _receive_pairs(pairs: Sequence[Pair]) -> None:
    # The text goes to each process once, not with every task.
    global _pairs  # noqa: PLW0603
    _pairs = pairs


def _make(folder: Path, seed: int, item: tuple[int, str, list[int]]) -> str:
    index, chunk = speak_chunk(_pairs, seed, item)
    chunk.save(chunk_path(folder, index))
    return chunk.voice


def synthesise(pairs: Sequence[Pair], folder: Path, chunks: int, processes: int, seed: int) -> None:
    """Make the first ``chunks`` chunks of the plan in ``folder``, those that are there already excepted.

    Raises:
        OSError: an engine or one of its voices is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = (
        item
        for item in itertools.islice(plan(len(pairs), seed), chunks)
        if not chunk_path(folder, item[0]).exists()
    )
    # The engines are C libraries with global state and their own threads: one process each, not forked.
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with context.Pool(processes, _receive_pairs, (pairs,)) as pool:
        for _ in pool.imap_unordered(partial(_make, folder, seed), todo):
            pass
