"""Quick passes are those of any pass: hidden states, what is written to the caches, what is chosen."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.layers import MLP
from pipeline.gemma.quick import MOST_POSITIONS, QuickPasses, suits


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
def test_quick_passes_are_those_of_the_decoder(decoder, rng, laid_out):
    """Whole and narrowed, with one position of each sequence or several, of which any number is wanted.

    Sequences come, go, branch, are cut back and outgrow their window and their pool.
    """
    for part in decoder.modules():
        if laid_out and isinstance(part, MLP):
            part.lay_out()
    widths = rng.choice([None, sub_model(decoder, rng)])
    choices = decoder.config.vocab_size_per_layer_input - 3
    pool = KVPool(decoder.config, torch.float32, torch.device("cpu"))
    quick = QuickPasses(decoder, choices, widths)
    pairs: list[tuple[KVCache, KVCache]] = []
    for number in range(60):
        if number % 12 == 0:
            cache = rng.choice(pairs)[0].fork() if pairs and rng.random() < 0.5 else KVCache(pool, 900)
            pairs.append((cache, cache.fork()))
        if number % 40 == 39:
            pairs.pop(0)
        chosen = rng.sample(pairs, rng.randint(1, len(pairs)))
        longest = rng.choice([1, 12])
        counts = [rng.randint(1, longest) for _ in chosen]
        keeps = rng.choice([counts, [rng.randint(0, count) for count in counts], [0] * len(counts)])
        token_ids = torch.tensor([[rng.randrange(choices) for _ in range(sum(counts))]])
        embeddings = decoder.embed(token_ids) + 0.1 * torch.randn(1, sum(counts), decoder.config.hidden_size)
        rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
        for pair, count in zip(chosen, counts, strict=True):
            for cache in pair:
                cache.reserve(count)
        own, twins = [pair[0] for pair in chosen], [pair[1] for pair in chosen]
        ahead = Ahead.of_sequences(twins, counts, keeps, embeddings.device)
        want = decoder.next_hidden(rows, embeddings, pool, ahead, widths)[0]
        got = torch.from_numpy(quick.hidden(own, counts, keeps, rows, embeddings))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        if number % 10 == 9:
            logits = quick.logits(own, counts, keeps, rows, embeddings)
            torch.testing.assert_close(logits, decoder.logits(want)[:, :choices], rtol=1e-3, atol=1e-3)
        for pair, count in zip(chosen, counts, strict=True):
            back = rng.randrange(count) if rng.random() < 0.5 else 0
            for cache in pair:
                cache.advance(count)
                cache.truncate(cache.length - back)


@torch.inference_mode()
def test_what_is_no_number_is_not_left_behind(decoder):
    """Others read it when the block is theirs, behind a mask that NaN would come through."""
    pool = KVPool(decoder.config, torch.float32, torch.device("cpu"))
    cache = KVCache(pool, 100)
    token_ids = torch.zeros(1, 4, dtype=torch.long)
    embeddings = torch.full_like(decoder.embed(token_ids), torch.nan)
    embeddings[:, ::2] = 1e38
    rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
    cache.reserve(4)
    hidden = QuickPasses(decoder, 10).hidden([cache], [4], [4], rows, embeddings)

    assert not torch.from_numpy(hidden).isfinite().all()
    for blocks in pool.kinds.values():
        assert blocks.buffer.isfinite().all()


@torch.inference_mode()
def test_only_what_was_measured_goes_this_way(decoder, monkeypatch):
    assert suits(decoder, MOST_POSITIONS)
    assert not suits(decoder, MOST_POSITIONS + 1)
    monkeypatch.setattr("pipeline.small.MOST_HIDDEN", decoder.config.hidden_size - 1)
    assert not suits(decoder, 1)
    monkeypatch.undo()
    assert not suits(decoder.to(torch.bfloat16), 1)
