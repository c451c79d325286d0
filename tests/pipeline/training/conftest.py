"""What tests of the training recipe share: text, speech that is made up, and an untrained model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tokenizers
import torch

from pipeline.gemma.prompt import Prompt
from pipeline.training import augment, vocabulary
from pipeline.training.__main__ import build, tokenizer_texts
from pipeline.training.batches import Batch, Batcher, Bucket
from pipeline.training.companions import companions
from pipeline.training.learner import Learner
from pipeline.training.recipe import TINY, speaking
from pipeline.training.synthesis import Chunk, chunk_path
from pipeline.training.text import Pair, read_pairs
from pipeline.training.train import heard

HELD_OUT = Path(__file__).parents[3] / "benchmarks/data"
RECIPE = replace(speaking(TINY, ("es", "fr", "en")), told=0.3)
CPU = torch.device("cpu")


class Built(NamedTuple):
    """What :func:`pipeline.training.__main__.build` gives, and what it was given."""

    learner: Learner
    raw: dict[str, Any]
    tokenizer: tokenizers.Tokenizer
    prompt: Prompt


@pytest.fixture(scope="session")
def spanish() -> list[Pair]:
    """Five hundred Spanish sentences and their translations."""
    return read_pairs(HELD_OUT / "heldout.es-en.tsv.gz", "es")


@pytest.fixture(scope="session")
def pairs(spanish: list[Pair]) -> list[Pair]:
    """These, and three hundred French sentences with theirs."""
    return spanish + read_pairs(HELD_OUT / "heldout.fr-en.tsv.gz", "fr")[:300]


@pytest.fixture(scope="session")
def built(pairs: list[Pair]) -> Built:
    """The tiny model, untrained, as it answers without dropout; leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = vocabulary.train(tokenizer_texts(pairs), RECIPE.text_tokens)
        learner, raw, prompt = build(RECIPE, tokenizer)
        return Built(learner.eval(), raw, tokenizer, prompt)


@pytest.fixture
def learner(built: Built) -> Learner:
    """A copy of the tiny model, to be changed; without dropout until :func:`train` turns it on."""
    return copy.deepcopy(built.learner)


def batcher_of(
    built: Built, pairs: Sequence[Pair], buckets: Sequence[Bucket] = TINY.buckets, seed: int = 3, **more: Any
) -> Batcher:
    """Draws examples for the tiny model; knows no chunk yet."""
    more |= {"companions": companions(pairs)} if more.get("told") else {}
    return Batcher(
        pairs, built.prompt, audio_id=built.learner.config.audio_token_id, buckets=buckets, seed=seed, **more
    )


@pytest.fixture
def batcher(built: Built, pairs: list[Pair]) -> Batcher:
    """Draws in the tiny recipe's shapes; knows no chunk yet."""
    return batcher_of(built, pairs)


def some_batch(batcher: Batcher, chunk: Chunk, index: int) -> tuple[torch.Tensor, Batch]:
    """The mel of a batch of bucket ``index``, made of ``chunk``, and the batch."""
    batcher.add(chunk, 0)
    batch = batcher.batch(index)
    pool = torch.from_numpy(np.append(chunk.pcm, np.int16(0)))
    generator = torch.Generator().manual_seed(1)
    return heard(pool, batch, batcher.buckets[index], augment.warped_filterbanks(CPU), generator), batch


def band(hertz: float) -> int:
    """The band of the mel filterbank whose middle is next to a frequency."""
    points = torch.linspace(augment._mel(125), augment._mel(7_600), 130)[1:-1]
    return int((points - augment._mel(hertz)).abs().argmin())


def speech_of(texts: Sequence[str], random: np.random.Generator) -> tuple[list[int], list[list[int]]]:
    """Lengths of sentences and ends of their words in samples, about as somebody would speak them."""
    lengths, ends = [], []
    for text in texts:
        words = random.integers(2_000, 6_000, len(text.split()))
        lengths.append(int(words.sum()))
        ends.append([int(end) for end in words.cumsum()])
    return lengths, ends


def made_up_chunk(pairs: Sequence[Pair], language: str, sentences: Sequence[int], seed: int = 0) -> Chunk:
    """A chunk of noise that claims to be ``sentences``, whose word ends are known."""
    random = np.random.default_rng(seed)
    texts = [pairs[index].side(language) for index in sentences]
    lengths, ends = speech_of(texts, random)
    return Chunk(
        language,
        "noise",
        np.array(sentences, np.int32),
        np.array(lengths, np.int64),
        random.integers(-20_000, 20_000, sum(lengths)).astype(np.int16),
        np.array([len(words) for words in ends], np.int32),
        np.array([end for words in ends for end in words], np.int32),
    )


@pytest.fixture(scope="session")
def chunks(pairs: list[Pair]) -> list[Chunk]:
    """Spanish and French, and English that is to become either; sixteen sentences each."""
    return [
        made_up_chunk(pairs, language, range(first, first + 16), number)
        for number, (language, first) in enumerate([("es", 0), ("en", 16), ("fr", 500), ("en", 516)])
    ]


@pytest.fixture
def folder(tmp_path: Path, chunks: list[Chunk]) -> Path:
    """Where these chunks have been synthesised."""
    for number, chunk in enumerate(chunks):
        chunk.save(chunk_path(tmp_path, number))
    return tmp_path
