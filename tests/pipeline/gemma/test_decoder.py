from __future__ import annotations

import copy
import dataclasses
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import Tensor

from pipeline.config import SLIDING, TextConfig
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.decoder import Decoder
from tests import reference


def draw(decoder: Decoder, rng: random.Random, length: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Random token ids, [batch, length], and their embeddings."""
    ids = torch.tensor(
        [[rng.randrange(decoder.config.vocab_size) for _ in range(length)] for _ in range(batch)],
        dtype=torch.long,
    )
    return ids, decoder.embed(ids).detach()


def advance(
    decoder: Decoder, caches: Sequence[KVCache], pieces: Sequence[tuple[Tensor, Tensor]], keeps: Sequence[int]
) -> list[Tensor]:
    """Append pieces to sequences in one pass; the hidden states wanted of each, [keep, hidden]."""
    counts = [ids.shape[1] for ids, _ in pieces]
    for cache, count in zip(caches, counts, strict=True):
        cache.reserve(count)
    ids, embeddings = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
    ahead = Ahead.of_sequences(caches, counts, keeps, embeddings.device)
    rows = decoder.embed_tokens_per_layer(ids, embeddings)
    hidden = decoder.next_hidden(rows, embeddings, caches[0].pool, ahead)
    for cache, count in zip(caches, counts, strict=True):
        cache.advance(count)
    return list(hidden[0].split(list(keeps)))


def new_pool(decoder: Decoder) -> KVPool:
    return KVPool(decoder.config, torch.float32, torch.device("cpu"))


@torch.no_grad()
def test_pieces_of_any_length_equal_the_whole(decoder, rng):
    """A cache makes no difference to the hidden states."""
    ids, embeddings = draw(decoder, rng, 60)
    cache, at, pieces = KVCache(new_pool(decoder), 60), 0, []
    while at < 60:
        end = min(60, at + rng.choice([1, 1, 2, 7, 20]))
        pieces += advance(decoder, [cache], [(ids[:, at:end], embeddings[:, at:end])], [end - at])
        at = end

    torch.testing.assert_close(torch.cat(pieces), decoder.hidden(ids, embeddings)[0], atol=1e-4, rtol=0)
    assert cache.length == 60


@torch.no_grad()
def test_layers_above_the_sharing_point_run_only_where_they_are_needed(decoder, rng):
    """Hidden states of the last positions are those of the full pass, with and without a cache."""
    ids, embeddings = draw(decoder, rng, 40)
    whole = decoder.hidden(ids, embeddings)
    keep = rng.randint(1, 12)
    seen = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    cache = KVCache(new_pool(decoder), 40)
    begin, end = (ids[:, :20], embeddings[:, :20]), (ids[:, 20:], embeddings[:, 20:])

    assert len(advance(decoder, [cache], [begin], [0])[0]) == 0
    assert len(seen) == decoder.config.first_shared_layer
    seen.clear()
    (cached,) = advance(decoder, [cache], [end], [keep])
    shared = decoder.config.num_kv_shared_layers
    assert seen == [20] * decoder.config.first_shared_layer + [keep] * shared
    torch.testing.assert_close(cached, whole[0, -keep:], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        decoder.hidden(ids, embeddings, keep=keep), whole[:, -keep:], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_sequences_that_come_go_and_branch_equal_the_whole(decoder, rng):
    """Whatever is appended to some of many sequences, cut back, forked and dropped, in any order."""
    pool = new_pool(decoder)
    # Each sequence with all that it was made of.
    sequences = [(KVCache(pool, 400), draw(decoder, rng, 0))]
    for _ in range(25):
        match rng.choice(["append", "append", "append", "truncate", "fork", "new", "drop"]):
            case "append":
                chosen = rng.sample(range(len(sequences)), rng.randint(1, len(sequences)))
                pieces = [draw(decoder, rng, rng.choice([1, 1, 1, 3, 18])) for _ in chosen]
                keeps = [rng.randint(0, piece[0].shape[1]) for piece in pieces]
                got = advance(decoder, [sequences[at][0] for at in chosen], pieces, keeps)
                for at, piece, hidden, keep in zip(chosen, pieces, got, keeps, strict=True):
                    cache, past = sequences[at]
                    whole = tuple(torch.cat(parts, 1) for parts in zip(past, piece, strict=True))
                    sequences[at] = (cache, whole)
                    if keep:
                        expected = decoder.hidden(*whole, keep=keep)[0]
                        torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)
            case "truncate":
                at = rng.randrange(len(sequences))
                cache, past = sequences[at]
                length = rng.randint(0, cache.length)
                with suppress(ValueError):  # it has let the past of that go
                    cache.truncate(length)
                sequences[at] = (cache, tuple(part[:, : cache.length] for part in past))
            case "fork":
                cache, past = rng.choice(sequences)
                sequences.append((cache.fork(), past))
            case "new":
                sequences.append((KVCache(pool, 400), draw(decoder, rng, 0)))
            case "drop" if len(sequences) > 1:
                sequences.pop(rng.randrange(len(sequences)))
    sequences.clear()
    del cache
    assert {blocks.taken for blocks in pool.kinds.values()} == {0}


@torch.no_grad()
def test_padding_on_the_right_changes_nothing_before_it(decoder, rng):
    ids, embeddings = draw(decoder, rng, 30, batch=3)
    padded = decoder.hidden(ids, embeddings)

    for row, length in enumerate((5, 30, 17)):
        alone = decoder.hidden(ids[row : row + 1, :length], embeddings[row : row + 1, :length])
        torch.testing.assert_close(padded[row : row + 1, :length], alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_narrow_widths_equal_a_model_with_sliced_weights(decoder, rng):
    """A view of a MatFormer sub-model is the sub-model."""
    config = decoder.config
    widths = tuple(rng.randint(64, width) for width in config.intermediate_size)
    narrow = Decoder(dataclasses.replace(config, intermediate_size=widths)).eval()
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    narrow.load_state_dict(
        {
            name: tensor[tuple(slice(size) for size in shapes[name])]
            for name, tensor in decoder.state_dict().items()
        }
    )
    ids, embeddings = draw(decoder, rng, 30)

    torch.testing.assert_close(
        decoder.hidden(ids, embeddings, ffn_widths=widths), narrow.hidden(ids, embeddings), atol=1e-4, rtol=0
    )


def test_every_weight_learns(decoder, rng):
    """Gradients reach all parameters through audio-free text and are finite."""
    decoder.train()
    ids, _ = draw(decoder, rng, 24, batch=2)
    logits = decoder.logits(decoder.hidden(ids, decoder.embed(ids)))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()

    for name, parameter in decoder.named_parameters():
        # The scale of a stream that is not scaled is there for the checkpoint alone.
        if name.endswith("correct_output_scale") and not decoder.config.altup_correct_scale:
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("batch", [1, 3])
def test_the_whole_sequence_form_compiles_into_one_graph(decoder, rng, batch):
    torch.compiler.reset()
    ids, embeddings = draw(decoder, rng, 20, batch=batch)
    compiled = torch.compile(decoder.hidden, fullgraph=True, backend="eager")

    torch.testing.assert_close(compiled(ids, embeddings), decoder.hidden(ids, embeddings), atol=1e-4, rtol=0)


@torch.no_grad()
def test_fused_layers_give_the_same_and_are_compiled_once_for_all_that_are_alike(monkeypatch):
    """At any number of positions, in the whole and in parts; only how they are compiled is faked."""
    torch.compiler.reset()
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    rng = random.Random(seed)
    kinds = ["sliding_attention", "full_attention"] * 4
    raw = reference.random_text_config(rng) | {"layer_types": kinds, "num_hidden_layers": 8}
    raw |= {"num_kv_shared_layers": 4, "intermediate_size": 64, "activation_sparsity_pattern": None}
    decoder = Decoder(TextConfig.from_dict(raw)).eval()
    reference.scramble(decoder)
    fused, compiled = copy.deepcopy(decoder), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    fused.fuse()
    caches = [KVCache(new_pool(of), 60) for of in (decoder, fused)]
    for count in (9, 1, 5, 1, 12):
        piece = draw(decoder, rng, count)
        plain, same = (
            advance(of, [cache], [piece], [count])[0]
            for of, cache in zip((decoder, fused), caches, strict=True)
        )
        torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)
    ids, embeddings = draw(decoder, rng, 7)
    for width in (16, 32):
        widths = (width,) * 8
        plain, same = (of.hidden(ids, embeddings, ffn_widths=widths) for of in (decoder, fused))
        torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)

    # Four parts, each for one position and for many, one of them for widths too.
    assert len(compiled) <= 12


@torch.no_grad()
def test_sliding_layers_do_not_see_beyond_their_window(decoder, rng):
    """Each layer carries what a token says at most one window further."""
    kinds = (SLIDING,) * decoder.config.num_hidden_layers
    config = dataclasses.replace(decoder.config, layer_types=kinds)
    sliding = Decoder(config).eval()
    sliding.load_state_dict(decoder.state_dict())
    reach = config.num_hidden_layers * (config.sliding_window - 1)
    ids, embeddings = draw(sliding, rng, reach + 3)
    changed = embeddings.clone()
    changed[:, 0] += 1.0
    difference = (sliding.hidden(ids, embeddings) - sliding.hidden(ids, changed)).abs().amax(-1)[0]

    assert difference[: config.sliding_window].min() > 1e-6
    assert difference[reach + 1 :].max() == 0.0
