from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import Tensor

from pipeline.config import SLIDING
from pipeline.gemma.cache import KVCache
from pipeline.gemma.decoder import Decoder


def draw(decoder: Decoder, rng: random.Random, length: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Random token ids, [batch, length], and their embeddings."""
    ids = torch.tensor(
        [[rng.randrange(decoder.config.vocab_size) for _ in range(length)] for _ in range(batch)]
    )
    return ids, decoder.embed(ids).detach()


def new_cache(decoder: Decoder) -> KVCache:
    return KVCache(decoder.config, torch.float32, torch.device("cpu"))


@torch.no_grad()
def test_pieces_of_any_length_equal_the_whole(decoder, rng):
    """A cache makes no difference to the hidden states."""
    ids, embeddings = draw(decoder, rng, 60)
    cache, at, pieces = new_cache(decoder), 0, []
    while at < 60:
        end = min(60, at + rng.choice([1, 1, 2, 7, 20]))
        pieces.append(decoder.hidden(ids[:, at:end], embeddings[:, at:end], cache=cache))
        at = end

    torch.testing.assert_close(torch.cat(pieces, 1), decoder.hidden(ids, embeddings), atol=1e-4, rtol=0)
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
    cache = new_cache(decoder)

    assert decoder.hidden(ids[:, :20], embeddings[:, :20], cache=cache, keep=0).shape[1] == 0
    assert len(seen) == decoder.config.first_shared_layer
    seen.clear()
    cached = decoder.hidden(ids[:, 20:], embeddings[:, 20:], cache=cache, keep=keep)
    shared = decoder.config.num_kv_shared_layers
    assert seen == [20] * decoder.config.first_shared_layer + [keep] * shared
    torch.testing.assert_close(cached, whole[:, -keep:], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        decoder.hidden(ids, embeddings, keep=keep), whole[:, -keep:], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_a_truncated_cache_is_that_of_the_shorter_sequence(decoder, rng):
    """Also after more than a sliding window was taken back, of which a ring buffer would keep nothing."""
    assert decoder.config.sliding_window <= 12
    ids, embeddings = draw(decoder, rng, 50)
    cut = rng.randint(1, 30)
    cache = new_cache(decoder)
    decoder.hidden(ids, embeddings, cache=cache)
    cache.truncate(cut)
    other, other_embeddings = draw(decoder, rng, 9)
    went_on = decoder.hidden(other, other_embeddings, cache=cache)

    joined = decoder.hidden(
        torch.cat([ids[:, :cut], other], 1), torch.cat([embeddings[:, :cut], other_embeddings], 1)
    )
    torch.testing.assert_close(went_on, joined[:, cut:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_forks_do_not_disturb_each_other(decoder, rng):
    ids, embeddings = draw(decoder, rng, 20)
    cache = new_cache(decoder)
    decoder.hidden(ids, embeddings, cache=cache, keep=0)
    twin = cache.fork()
    branches = [draw(decoder, rng, 6) for _ in range(2)]
    together = [
        decoder.hidden(branch, embedded, cache=held)
        for (branch, embedded), held in zip(branches, (cache, twin), strict=True)
    ]

    for (branch, embedded), got in zip(branches, together, strict=True):
        alone = decoder.hidden(torch.cat([ids, branch], 1), torch.cat([embeddings, embedded], 1), keep=6)
        torch.testing.assert_close(got, alone, atol=1e-4, rtol=0)


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
