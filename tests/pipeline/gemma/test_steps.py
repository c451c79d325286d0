"""Passes of fixed shapes choose what plain ones choose. Recording them needs a GPU; the rest does not."""

from __future__ import annotations

import weakref

import pytest
import torch

from pipeline.gemma import steps as steps_module
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache, KVPool, reserve
from pipeline.gemma.passes import FixedPass, packed
from pipeline.gemma.steps import FixedSteps

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def inputs(decoder, ids):
    """Rows of the per-layer table and embeddings of ids, one behind the other."""
    token_ids = torch.tensor([ids])
    embeddings = decoder.embed(token_ids.to(decoder.embed_tokens.weight.device))
    return decoder.embed_tokens_per_layer(token_ids, embeddings), embeddings


def pools(decoder, device):
    """One for passes in fixed shapes and one for those that they are held against."""
    return (KVPool(decoder.config, torch.float32, torch.device(device)) for _ in range(2))


def plain(decoder, caches, counts, keeps, inputs, *, choices):
    """Logits by a pass like any other."""
    rows, embeddings = inputs
    reserve(caches, counts)
    ahead = Ahead.of_sequences(caches, counts, keeps, embeddings.device)
    hidden = decoder.next_hidden(rows, embeddings, caches[0].pool, ahead)
    for cache, count in zip(caches, counts, strict=True):
        cache.advance(count)
    return decoder.logits(hidden[0])[:, :choices]


def agree(got, logits):
    """Whether the ids are the most likely ones, or as likely as those."""
    ids = [id_ for ids in got for id_ in ids]
    assert len(ids) == len(logits)
    if ids:
        of_them = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
        assert (logits.amax(-1) - of_them).max() <= 1e-4
        assert max(ids) < logits.shape[1]


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
        got = [later() for later in steps.step([cache for cache, _ in chosen], ids)]
        for cache, _ in chosen:
            cache.advance(1)
        ones = [1] * len(ids)
        twins = [twin for _, twin in chosen]
        agree(got, plain(decoder, twins, ones, ones, inputs(decoder, ids), choices=choices))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("skip", [True, False])
@torch.inference_mode()
def test_passes_are_those_of_the_plain_pass(decoder, rng, device, skip):
    """Any number of positions of each sequence, any number of them wanted, steps in between."""
    decoder.to(device)
    choices = decoder.config.vocab_size_per_layer_input - 3
    pool, other = pools(decoder, device)
    steps = FixedSteps(decoder, pool, choices, skip=skip)
    pairs: list[tuple[KVCache, KVCache]] = []
    for number in range(24):
        if number % 3 == 0:
            at = (
                rng.choice(pairs)
                if pairs and rng.random() < 0.5
                else (KVCache(pool, 900), KVCache(other, 900))
            )
            pairs.append((at[0].fork(), at[1].fork()))
        if number % 10 == 9:
            pairs.pop(0)
        chosen = [(ours, theirs) for ours, theirs in pairs if ours.length < 700 and rng.random() < 0.8]
        if not chosen:
            continue
        most = rng.choice([3, 20, 90])
        counts = [rng.randint(1, most) for _ in chosen]
        keeps = [rng.randint(0, min(count, rng.choice([0, 1, most]))) for count in counts]
        rows, embeddings = inputs(decoder, [rng.randrange(choices) for _ in range(sum(counts))])
        # As where sound was merged in.
        embeddings += torch.randn_like(embeddings) * embeddings.std() * 0.1
        caches = [cache for cache, _ in chosen]
        reserve(caches, counts)
        got = [later() for later in steps.go_on(caches, counts, keeps, rows, embeddings)]
        for cache, count in zip(caches, counts, strict=True):
            cache.advance(count)
        assert [len(ids) for ids in got] == keeps
        twins = [twin for _, twin in chosen]
        agree(got, plain(decoder, twins, counts, keeps, (rows, embeddings), choices=choices))
        for pair, count in zip(chosen, counts, strict=True):
            back = rng.choice([0, 0, rng.randint(0, count)])
            for cache in pair:
                cache.truncate(cache.length - back)


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_what_a_stream_makes_of_noise_reaches_no_other(decoder, rng, device):
    """Not through what fills up a pass, nor the block that it is written to, nor one that is taken again."""
    decoder.to(device)
    choices = decoder.config.vocab_size_per_layer_input
    pool, other = pools(decoder, device)
    steps = FixedSteps(decoder, pool, choices)
    sound, twin = KVCache(pool, 400), KVCache(other, 400)
    for number in range(8):
        broken = KVCache(pool, 400)
        count = rng.randint(1, 20)
        rows, embeddings = inputs(decoder, [rng.randrange(choices) for _ in range(count)])
        caches, counts = [sound, broken], [count, 5]
        both = [
            torch.cat([part, torch.full_like(part[:, :1].expand(-1, 5, *part.shape[2:]), torch.nan)], 1)
            for part in (rows, embeddings)
        ]
        if number % 2:
            caches, counts = [broken, sound], [5, count]
            both = [torch.cat([part[:, count:], part[:, :count]], 1) for part in both]
        reserve(caches, counts)
        got = [later() for later in steps.go_on(caches, counts, counts, *both)]
        for cache, more in zip(caches, counts, strict=True):
            cache.advance(more)
        logits = plain(decoder, [twin], [count], [count], (rows, embeddings), choices=choices)
        agree([got[number % 2]], logits)
        sound.reserve(1)
        step = [later() for later in steps.step([sound], [3])]
        sound.advance(1)
        agree(step, plain(decoder, [twin], [1], [1], inputs(decoder, [3]), choices=choices))
    for blocks in pool.kinds.values():
        assert not blocks.buffer[:, 0].any()


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
    monkeypatch.delattr(steps_module, "FixedPass")
    caches = [KVCache(pool, positions) for _ in range(sequences)]
    for length in sorted({0, positions // 2, positions - 1}):
        for cache in caches:
            cache.reserve(length - cache.length)
            cache.advance(length - cache.length)
            cache.reserve(1)
        for count in range(1, sequences + 1):
            assert len(steps.step(caches[:count], [1] * count)) == count
    # The room in the pool is for what follows alone.
    del caches, cache
    for _ in range(5):
        counts = [rng.randint(1, min(256, positions)) for _ in range(rng.randint(1, sequences))]
        for part in packed(counts):
            caches = [KVCache(pool, positions) for _ in part]
            own = [counts[at] for at in part]
            reserve(caches, own)
            keeps = [rng.randint(0, count) for count in own]
            got = steps.go_on(caches, own, keeps, *inputs(decoder, [1] * sum(own)))
            assert [len(later()) for later in got] == keeps


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_a_pass_that_found_no_memory_is_not_tried_again_for_less(decoder, device, monkeypatch):
    decoder.to(device)
    pool = KVPool(decoder.config, torch.float32, torch.device(device))
    steps = FixedSteps(decoder, pool, 10)
    run, tried = steps_module.FixedPass.run, []

    def run_if_small(fixed: FixedPass) -> None:
        tried.append(len(fixed.filled[0]))
        if tried[-1] > 256:
            raise torch.OutOfMemoryError
        run(fixed)

    monkeypatch.setattr(steps_module.FixedPass, "run", run_if_small)
    cache = KVCache(pool, 400)
    cache.reserve(300)
    with pytest.raises(torch.OutOfMemoryError):
        steps.go_on([cache], [300], [1], *inputs(decoder, [1] * 300))
    steps.go_on([cache], [150], [1], *inputs(decoder, [1] * 150))

    assert tried == [512, 256]


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_passes_may_be_asked_when_others_have_followed(decoder, rng, device):
    """Of the same shape, which lie in the same memory."""
    decoder.to(device)
    choices = decoder.config.vocab_size_per_layer_input
    pool, other = pools(decoder, device)
    steps = FixedSteps(decoder, pool, choices)
    started, expected = [], []
    for number in range(8):
        count = 1 if number % 2 else 5
        ids = [rng.randrange(choices) for _ in range(count)]
        cache, twin = KVCache(pool, 40), KVCache(other, 40)
        cache.reserve(count)
        if number % 2:
            started += steps.step([cache], ids)
        else:
            started += steps.go_on([cache], [count], [count], *inputs(decoder, ids))
        expected.append(plain(decoder, [twin], [count], [count], inputs(decoder, ids), choices=choices))

    for later, logits in zip(started, expected, strict=True):
        agree([later()], logits)
    assert steps.shapes == 2


@torch.inference_mode()
def test_a_pool_is_let_go_with_its_last_sequence(decoder):
    """Its steps do not keep it, and what they recorded over it is gone with it."""
    pool = KVPool(decoder.config, torch.float32, torch.device("cpu"))
    pool.steps[None] = FixedSteps(decoder, pool, 10)
    pool.steps[None].prepare(1, 1)
    gone = weakref.ref(pool)
    del pool

    assert gone() is None
