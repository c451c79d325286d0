"""Sliding-window causal self-attention with relative positions and capped logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import AudioConfig
from pipeline.errors import CheckpointError

MAX_TIMESCALE = 1.0e4


@dataclass
class AttentionState:
    """Keys and values of a stream's last L frames, [1, L, heads, head_dim] each; zeros before its start."""

    keys: Tensor
    values: Tensor


class RelativePositionEmbedding(nn.Module):
    """Projected sinusoids of the distances from a query back to its keys.

    Transformer-XL's relative term (Dai et al. 2019, section 3.3) without its biases: the logit of
    key s for query t gains ``q_t · pos_proj(sin_emb(t - s))``.
    """

    inv_timescales: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.heads = config.conf_num_attention_heads
        self.distances = max(1, config.conf_attention_context_left)
        self.pos_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        timescales = config.hidden_size // 2
        increment = math.log(MAX_TIMESCALE) / max(timescales - 1, 1)
        # On the CPU by name: no checkpoint brings it, so it must be there even in a model laid out on "meta".
        self.register_buffer(
            "inv_timescales",
            torch.exp(torch.arange(timescales, device="cpu") * -increment),
            persistent=False,
        )

    def forward(self) -> Tensor:
        """The table [heads, head_dim, L + 1], from the farthest key (distance L) to the query's own frame."""
        distance = torch.arange(self.distances - 1, -1, -1, device=self.inv_timescales.device)
        angle = distance[:, None] * self.inv_timescales.float()
        signal = torch.cat([angle.sin(), angle.cos()], dim=-1).to(self.pos_proj.weight.dtype)
        table: Tensor = self.pos_proj(signal)
        return torch.unflatten(table, -1, (self.heads, -1)).permute(1, 2, 0)


class LocalAttention(nn.Module):
    """Every query attends to its own frame and the L frames before it.

    L is ``conf_attention_context_left - 1`` (12 as published, thus 13 keys). The reference reaches
    the same set of keys by masking blocks of ``conf_attention_chunk_size`` queries against a wider
    context; here the blocks are a memory layout only, so cost and memory are linear in time.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.conf_num_attention_heads
        if hidden % heads or hidden % 2:
            raise CheckpointError(
                f"config.json: the audio hidden_size must be even and a multiple of "
                f"conf_num_attention_heads ({heads}), got {hidden}"
            )
        self.heads = heads
        self.past = max(0, config.conf_attention_context_left - 1)
        self.block = config.conf_attention_chunk_size
        self.logit_cap = config.conf_attention_logit_cap
        # softplus(0) = ln 2, so that the untrained per_dim_scale of 0 leaves the usual 1/sqrt(head_dim).
        self.query_scale = (hidden // heads) ** -0.5 / math.log(2.0)
        self.relative_position_embedding = RelativePositionEmbedding(config)
        self.per_dim_scale = nn.Parameter(torch.zeros(hidden // heads))
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)

    def initial_state(self) -> AttentionState:
        """State of a stream before its first frame."""
        zeros = self.k_proj.weight.new_zeros(1, self.past, self.heads, self.per_dim_scale.shape[0])
        return AttentionState(zeros, zeros.clone())

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        state: AttentionState | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Attend within ``x`` [B, T, hidden]; with a state, also to the frames before it.

        Args:
            x: normalised frames.
            mask: which keys each query may see, from :func:`window_mask`, [..., blocks, block, block + L].
            state: left context, replaced by that of the next piece; None means nothing came before.
            positions: the table of :class:`RelativePositionEmbedding` where it was computed beforehand.

        Returns:
            [B, T, hidden], heads concatenated, before the output projection.
        """
        frames = x.shape[1]
        blocks, block, context = mask.shape[-3:]
        if positions is None:
            positions = self.relative_position_embedding()
        query = torch.unflatten(self.q_proj(x), -1, (self.heads, -1))
        key = torch.unflatten(self.k_proj(x), -1, (self.heads, -1))
        value = torch.unflatten(self.v_proj(x), -1, (self.heads, -1))
        # The cap's inner division is folded into the query: tanh(logit / cap) * cap.
        scale = F.softplus(self.per_dim_scale.float()) * (self.query_scale / self.logit_cap)
        query = query * scale.to(query.dtype)

        left = self.past
        if state is not None:
            key, value = torch.cat([state.keys, key], 1), torch.cat([state.values, value], 1)
            state.keys, state.values = key[:, frames:].clone(), value[:, frames:].clone()
            left = 0
        tail = blocks * block - frames
        query = F.pad(query, (0, 0, 0, 0, 0, tail)).transpose(1, 2)
        key = F.pad(key, (0, 0, 0, 0, left, tail)).unfold(1, context, block)
        value = F.pad(value, (0, 0, 0, 0, left, tail)).unfold(1, context, block)

        by_position = torch.unflatten(query @ positions, 2, (blocks, block))
        query = torch.unflatten(query, 2, (blocks, block))  # [B, heads, blocks, block, head_dim]
        by_content = query @ key.permute(0, 2, 1, 3, 4)  # [B, heads, blocks, block, context]
        logits = (by_content + _shift(by_position, context)).float()
        logits = (logits.tanh() * self.logit_cap).masked_fill(~mask, -torch.inf)
        weights = logits.softmax(-1).to(value.dtype)
        attended = weights @ value.permute(0, 2, 1, 4, 3)
        return attended.flatten(2, 3)[:, :, :frames].transpose(1, 2).flatten(2)


def window_mask(frames: int, seen: int | Tensor, past: int, block: int, device: torch.device) -> Tensor:
    """Which keys each query sees: distances 0 to ``past``, and nothing before the stream's start.

    Args:
        frames: T, frames in this piece.
        seen: frames of the stream before it; of each of many streams, int64 [B].
        past: L, how far back a query looks.
        block: queries in a block.
        device: where to make it.

    Returns:
        bool [blocks, block, block + L], or for each of many streams [B, 1, blocks, block, block + L]; key c
        of block u is frame ``u * block + c - L`` of the piece.
        Frames that only fill up the last block are nobody's past, so they need no mask of their own.
    """
    block = max(1, min(block, frames))
    blocks = -(-frames // block)
    query = torch.arange(block, device=device)[:, None]
    key = torch.arange(-past, block, device=device)
    window = (key <= query) & (key >= query - past)
    start = torch.arange(0, blocks * block, block, device=device)[:, None, None]
    if isinstance(seen, Tensor):
        seen = seen[:, None, None, None, None]
    return window & (key + start + seen >= 0)


def _shift(by_distance: Tensor, context: int) -> Tensor:
    """Turn [..., block, L + 1] by distance into [..., block, context] by key: row w moves w columns right.

    The values that it leaves outside the window are arbitrary and have to be masked.
    """
    block, span = by_distance.shape[-2:]
    padded = F.pad(by_distance, (0, context + 1 - span)).flatten(-2)
    return torch.unflatten(padded[..., : block * context], -1, (block, context))
