"""Rotary, grouped-query attention with normed queries, keys and values, and no scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import TextConfig
from pipeline.gemma.layers import RMSNorm


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021), float32 [T, head_dim] each, for ``positions`` [T]."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angle = positions.float()[:, None] * (theta**-exponent)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Apply RoPE to ``x`` [B, heads, T, head_dim], halves rotated against each other."""
    cos, sin = (part.to(x.dtype) for part in table)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Self-attention of one layer; a KV-sharing layer projects queries only."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, head_dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(hidden, config.num_attention_heads * head_dim, bias=False)
        self.q_norm = RMSNorm(head_dim, eps=config.rms_norm_eps)
        self.o_proj = nn.Linear(config.num_attention_heads * head_dim, hidden, bias=False)
        self.owns_kv = layer < config.first_shared_layer
        if self.owns_kv:
            self.k_proj = nn.Linear(hidden, config.num_key_value_heads * head_dim, bias=False)
            self.v_proj = nn.Linear(hidden, config.num_key_value_heads * head_dim, bias=False)
            self.k_norm = RMSNorm(head_dim, eps=config.rms_norm_eps)
            self.v_norm = RMSNorm(head_dim, eps=config.rms_norm_eps, elementwise_affine=False)

    def keys_values(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Normed, rotated keys and normed values of ``x`` [B, T, hidden], [B, kv_heads, T, head_dim] each."""
        key = rotate(self.k_norm(self._split(self.k_proj(x))), table)
        return key, self.v_norm(self._split(self.v_proj(x)))

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Attend from ``x`` [B, T, hidden] to all keys.

        Args:
            x: the layer's normed input.
            table: of :func:`rotary_table` for the positions of ``x``.
            keys: [B, kv_heads, S, head_dim].
            values: the same.
            mask: bool [T, S], true where attention is allowed; None for plain causal with S = T.

        Returns:
            [B, T, hidden].
        """
        query = rotate(self.q_norm(self._split(self.q_proj(x))), table)
        attended = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=True
        )
        out: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
