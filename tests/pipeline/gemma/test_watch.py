"""What a sequence attends to, seen in passes over many."""

from __future__ import annotations

import secrets

import pytest
import torch

from pipeline.batching import run_alone
from pipeline.gemma.greedy import Segment, greedy
from pipeline.gemma.watch import Watch
from pipeline.model import Gemma3n


@pytest.fixture(scope="module")
def babbler(checkpoint):
    return Gemma3n.from_pretrained(checkpoint)


def some_ids(model, count, generator):
    return torch.randint(5, 200, (count,), generator=generator).tolist()


def attended(model, ids, keep, span):
    """The same from a full pass, layer by layer, written down without cache or batch."""
    decoder, config = model.language_model, model.config.text
    seen = []
    embeddings = model.embed(torch.tensor([ids]), None)

    def note(layer, args, kwargs):
        x, view = args[0], args[1]
        attention = decoder.layers[layer].self_attn
        keys = args[2]
        q = attention.q_norm(attention.q_proj(x).view(1, len(ids), -1, config.head_dim)).transpose(1, 2)
        half = q.shape[-1] // 2
        turned = torch.cat([-q[..., half:], q[..., :half]], -1)
        q = q * view.cos + turned * view.sin
        keys = keys.repeat_interleave(q.shape[1] // keys.shape[1], 1)
        scores = q @ keys.transpose(-1, -2)
        scores += torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        seen.append(scores.softmax(-1)[0].mean(0))

    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, at=at: note(at, args, kwargs), with_kwargs=True
        )
        for at, layer in enumerate(decoder.layers)
        if config.layer_types[at] == "full_attention"
    ]
    decoder.hidden(torch.tensor([ids]), embeddings)
    for hook in hooks:
        hook.remove()
    return sum(seen)[len(ids) - keep :, slice(*span)].argmax(-1).tolist()


def test_the_greatest_attention_within_the_span_is_noted(babbler):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    generator = torch.Generator().manual_seed(seed)
    lengths = [(40, 5, (3, 30)), (23, 23, (0, 2)), (61, 1, (10, 60))]
    pool, segments = babbler.new_pool(), []
    for length, keep, span in lengths:
        ids = some_ids(babbler, length, generator)
        cache = babbler.new_cache(pool)
        before = length - keep - 2 if length > keep + 2 else 0
        babbler.extend(cache, ids[:before])
        segments.append((ids, Segment(cache, ids[before:], keep, None, None, Watch(*span))))
    unwatched = Segment(babbler.new_cache(pool), some_ids(babbler, 7, generator), 3)
    with torch.inference_mode():
        babbler.step([segments[0][1], unwatched, *(segment for _, segment in segments[1:])])
        for (ids, segment), (length, keep, span) in zip(segments, lengths, strict=True):
            assert sorted(segment.watch.seen) == list(range(length - keep, length))
            assert list(segment.watch.seen.values()) == attended(babbler, ids, keep, span)


def test_watching_changes_nothing(babbler):
    ids = some_ids(babbler, 30, torch.Generator().manual_seed(1))
    watch = Watch(0, 30)

    def decode(watch):
        return run_alone(greedy(babbler.new_cache(), ids, 10, (), ids[:3], watch=watch), babbler.step)

    assert decode(watch) == decode(None)
    # One for each token of the output: what the position before it attends to.
    assert set(range(29, 39)) <= set(watch.seen)


def test_nothing_is_noted_of_an_empty_span(babbler):
    watch = Watch(4, 4)
    babbler.step([Segment(babbler.new_cache(), [5, 6, 7, 8], 2, None, None, watch)])

    assert watch.seen == {}
