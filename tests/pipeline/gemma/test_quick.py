"""Quick steps are those of the plain pass: hidden states, what is written to the caches, what is chosen."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.layers import MLP
from pipeline.gemma.quick import MOST_HIDDEN, MOST_SEQUENCES, QuickSteps, suits


def plain(decoder, caches, ids, widths):
    """Final hidden states by a pass like any other."""
    token_ids = torch.tensor([ids])
    embeddings = decoder.embed(token_ids)
    ahead = Ahead.of_sequences(caches, [1] * len(ids), [1] * len(ids), embeddings.device)
    rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
    return decoder.next_hidden(rows, embeddings, caches[0].pool, ahead, widths)[0]


def sub_model(decoder, rng: random.Random) -> tuple[int, ...]:
    """Any widths, with a layer skipped sometimes; those are kept that others take keys and values from."""
    config = decoder.config
    sources = {config.kv_source(layer) for layer in range(config.num_hidden_layers)}
    return tuple(
        0 if layer not in sources and rng.random() < 0.3 else rng.randint(1, width)
        for layer, width in enumerate(config.intermediate_size)
    )


@pytest.mark.parametrize("laid_out", [False, True])
@torch.inference_mode()
def test_steps_are_those_of_the_plain_pass(decoder, rng, laid_out):
    """With sequences that come, go, branch and outgrow their window and their pool, whole and narrowed."""
    for part in decoder.modules():
        if laid_out and isinstance(part, MLP):
            part.lay_out()
    widths = rng.choice([None, sub_model(decoder, rng)])
    choices = decoder.config.vocab_size_per_layer_input - 3
    pool = KVPool(decoder.config, torch.float32, torch.device("cpu"))
    steps = QuickSteps(decoder, choices, widths)
    pairs: list[tuple[KVCache, KVCache]] = []
    for number in range(60):
        if number % 12 == 0:
            cache = rng.choice(pairs)[0].fork() if pairs and rng.random() < 0.5 else KVCache(pool, 400)
            pairs.append((cache, cache.fork()))
        if number % 40 == 39:
            pairs.pop(0)
        chosen = rng.sample(pairs, rng.randint(1, len(pairs)))
        ids = [rng.randrange(choices) for _ in chosen]
        for pair in chosen:
            for cache in pair:
                cache.reserve(1)
        got = torch.from_numpy(steps.hidden([quick for quick, _ in chosen], ids))
        want = plain(decoder, [twin for _, twin in chosen], ids, widths)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        if number == 59:
            best = decoder.logits(want)[:, :choices].argmax(-1).tolist()
            assert steps.step([quick for quick, _ in chosen], ids) == best
        for pair in chosen:
            for cache in pair:
                cache.advance(1)


@torch.inference_mode()
def test_only_what_was_measured_goes_this_way(decoder, monkeypatch):
    assert suits(decoder, MOST_SEQUENCES)
    assert not suits(decoder, MOST_SEQUENCES + 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert not suits(decoder, 1)
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.gemma.quick.MOST_HIDDEN", decoder.config.hidden_size - 1)
    assert not suits(decoder, 1)
    monkeypatch.undo()
    assert decoder.config.hidden_size <= MOST_HIDDEN
    assert not suits(decoder.to(torch.bfloat16), 1)
