from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config import AudioConfig
from pipeline.encoder.attention import LocalAttention, window_mask
from pipeline.errors import CheckpointError

CPU = torch.device("cpu")


def naive_attention(attention: LocalAttention, x: torch.Tensor, past: int, cap: float) -> torch.Tensor:
    """[T, hidden] one query, one head, one key at a time."""
    heads = attention.heads
    q, k, v = (
        (x @ w.weight.T).unflatten(-1, (heads, -1))
        for w in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    width = q.shape[-1]
    q = q / math.sqrt(width) / math.log(2) * F.softplus(attention.per_dim_scale)
    half = x.shape[1] // 2
    timescales = [1e4 ** (i / max(half - 1, 1)) for i in range(half)]
    rows = []
    for t in range(len(x)):
        row = []
        for head in range(heads):
            logits = []
            for s in range(max(0, t - past), t + 1):
                angles = torch.tensor([(t - s) / timescale for timescale in timescales])
                signal = torch.cat([angles.sin(), angles.cos()])
                position = attention.relative_position_embedding.pos_proj(signal).unflatten(0, (heads, -1))
                logit = q[t, head] @ k[s, head] + q[t, head] @ position[head]
                logits.append(cap * torch.tanh(logit / cap))
            weights = torch.stack(logits).softmax(0)
            row.append(weights @ v[max(0, t - past) : t + 1, head])
        rows.append(torch.cat(row))
    return torch.stack(rows)


@torch.no_grad()
def test_attention_is_its_definition(rng: random.Random, scramble: Callable[[nn.Module], None]) -> None:
    heads, past, block = rng.choice([1, 2]), rng.randint(0, 6), rng.randint(1, 8)
    config = AudioConfig(
        hidden_size=8,
        conf_num_attention_heads=heads,
        conf_attention_chunk_size=block,
        conf_attention_context_left=past + 1,
        conf_attention_logit_cap=3.0,
    )
    attention = LocalAttention(config)
    scramble(attention)
    x = torch.randn(rng.randint(1, 20), 8)
    print(f"{heads=} {past=} {block=} frames={len(x)}")

    y = attention(x[None], window_mask(len(x), 0, past, block, CPU))[0]

    torch.testing.assert_close(y, naive_attention(attention, x, past, 3.0), atol=1e-5, rtol=0)


def keys_of_each_query(mask: torch.Tensor, frames: int, past: int) -> list[list[int]]:
    blocks, block, _ = mask.shape
    seen = [
        (mask[u, w].nonzero()[:, 0] + u * block - past).tolist() for u in range(blocks) for w in range(block)
    ]
    return seen[:frames]


@pytest.mark.parametrize("block", [1, 5, 12, 50])
def test_a_query_sees_itself_and_the_twelve_frames_before(block: int) -> None:
    mask = window_mask(40, 0, 12, block, CPU)

    assert keys_of_each_query(mask, 40, 12) == [list(range(max(0, t - 12), t + 1)) for t in range(40)]


def test_all_thirteen_keys_are_there_once_twelve_frames_have_been() -> None:
    assert window_mask(40, 12, 12, 12, CPU).sum(-1).unique().tolist() == [13]
    assert window_mask(3, 5, 12, 12, CPU).sum(-1).tolist() == [[6, 7, 8]]


def test_the_untrained_scale_is_one_over_the_root_of_the_head_width() -> None:
    attention = LocalAttention(AudioConfig())

    scale = attention.query_scale * F.softplus(attention.per_dim_scale)

    torch.testing.assert_close(scale.detach(), torch.full((192,), 192**-0.5))


@pytest.mark.parametrize(("hidden", "heads"), [(30, 4), (9, 3)])
def test_a_width_that_heads_cannot_share_is_refused(hidden: int, heads: int) -> None:
    with pytest.raises(
        CheckpointError, match=f"multiple of conf_num_attention_heads \\({heads}\\), got {hidden}"
    ):
        LocalAttention(AudioConfig(hidden_size=hidden, conf_num_attention_heads=heads))
