"""Steps of fixed shapes choose what the plain pass chooses. Recording them needs a GPU; the rest does not."""

from __future__ import annotations

import weakref

import pytest
import torch

from pipeline.gemma import steps as steps_module
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.steps import FixedSteps

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def plain(decoder, caches, ids, choices):
    """The same by a pass like any other."""
    for cache in caches:
        cache.reserve(1)
    device = decoder.embed_tokens.weight.device
    token_ids = torch.tensor([ids])
    embeddings = decoder.embed(token_ids.to(device))
    ahead = Ahead.of_sequences(caches, [1] * len(ids), [1] * len(ids), device)
    rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
    hidden = decoder.next_hidden(rows, embeddings, caches[0].pool, ahead)
    for cache in caches:
        cache.advance(1)
    return decoder.logits(hidden[0])[:, :choices].argmax(-1).tolist()


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_steps_are_those_of_the_plain_pass(decoder, rng, device):
    """With sequences that come, go, branch and outgrow their tables and their pool."""
    decoder.to(device)
    choices = decoder.config.vocab_size_per_layer_input - 3
    pool = KVPool(decoder.config, torch.float32, torch.device(device))
    steps = FixedSteps(decoder, pool, choices)
    pairs: list[tuple[KVCache, KVCache]] = []
    for number in range(90):
        if number % 12 == 0:
            cache = rng.choice(pairs)[0].fork() if pairs and rng.random() < 0.5 else KVCache(pool, 400)
            pairs.append((cache, cache.fork()))
        if number % 40 == 39:
            pairs.pop(0)
        chosen = rng.sample(pairs, rng.randint(1, len(pairs)))
        ids = [rng.randrange(choices) for _ in chosen]
        for cache, _ in chosen:
            cache.reserve(1)
        got = steps.step([cache for cache, _ in chosen], ids)
        for cache, _ in chosen:
            cache.advance(1)
        assert got == plain(decoder, [twin for _, twin in chosen], ids, choices)
        assert max(got) < choices


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_what_was_prepared_is_there_when_it_comes(decoder, rng, device, monkeypatch):
    """Any number of sequences up to the one told, at any length up to the one told."""
    decoder.to(device)
    sequences, positions = rng.randint(1, 6), rng.randint(1, 300)
    pool = KVPool(decoder.config, torch.float32, torch.device(device), sequences * (positions + 16))
    steps = FixedSteps(decoder, pool, 10)
    steps.prepare(sequences, positions)
    monkeypatch.delattr(steps_module, "_Step")
    caches = [KVCache(pool, positions) for _ in range(sequences)]
    for length in sorted({0, positions // 2, positions - 1}):
        for cache in caches:
            cache.reserve(length - cache.length)
            cache.advance(length - cache.length)
            cache.reserve(1)
        for count in range(1, sequences + 1):
            assert len(steps.step(caches[:count], [1] * count)) == count


@torch.inference_mode()
def test_a_pool_is_let_go_with_its_last_sequence(decoder):
    """Its steps do not keep it, and what they recorded over it is gone with it."""
    pool = KVPool(decoder.config, torch.float32, torch.device("cpu"))
    pool.steps[None] = FixedSteps(decoder, pool, 10)
    pool.steps[None].prepare(1, 1)
    gone = weakref.ref(pool)
    del pool

    assert gone() is None
