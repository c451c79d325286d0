"""Rotary, grouped-query attention with normed queries, keys and values, and no scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import TextConfig
from pipeline.gemma.layers import RMSNorm


class View(NamedTuple):
    """What the queries of one pass through the layers of one kind, sliding or full, need to know.

    Attributes:
        cos: cosines of RoPE (Su et al. 2021, arXiv:2104.09864) for the queries, float32 [T, head_dim].
        sin: sines.
        visible: how many of the last keys any query may see.
        mask: bool [T, visible], true where attention is allowed; None if that is plain causal, or everything
            for a single query.
    """

    cos: Tensor
    sin: Tensor
    visible: int
    mask: Tensor | None

    @classmethod
    def of_last(
        cls,
        queries: int,
        keys: int,
        *,
        head_dim: int,
        theta: float,
        window: int | None,
        device: torch.device,
    ) -> View:
        """View of the last ``queries`` of ``keys`` positions.

        Args:
            queries: T >= 1.
            keys: length of the sequence so far, the queries included.
            head_dim: width of a head.
            theta: base of RoPE.
            window: how many keys a query sees, its own included; None for all.
            device: where the tensors lie.
        """
        frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
        positions = torch.arange(keys - queries, keys, device=device)
        angle = positions.float()[:, None] * frequencies
        angle = torch.cat([angle, angle], dim=-1)
        visible = keys if window is None else min(keys, window + queries - 1)
        mask = None
        if queries > 1 and (queries < keys or (window is not None and keys > window)):
            distance = positions[:, None] - torch.arange(keys - visible, keys, device=device)
            mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return cls(angle.cos(), angle.sin(), visible, mask)


def rotate(x: Tensor, view: View) -> Tensor:
    """Apply RoPE to ``x`` [B, heads, T, head_dim], halves rotated against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * view.cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * view.sin.to(x.dtype)


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

    def keys_values(self, x: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Normed, rotated keys and normed values of ``x`` [B, T, hidden], [B, kv_heads, T, head_dim] each."""
        key = rotate(self.k_norm(self._split(self.k_proj(x))), view)
        return key, self.v_norm(self._split(self.v_proj(x)))

    def forward(self, x: Tensor, view: View, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to all keys that ``view`` allows.

        Args:
            x: the layer's normed input, [B, T, hidden].
            view: of its T positions, the last of S.
            keys: [B, kv_heads, S, head_dim].
            values: the same.

        Returns:
            [B, T, hidden].
        """
        query = rotate(self.q_norm(self._split(self.q_proj(x))), view)
        attended = F.scaled_dot_product_attention(
            query,
            keys[:, :, -view.visible :],
            values[:, :, -view.visible :],
            attn_mask=view.mask,
            is_causal=view.mask is None and x.shape[1] > 1,
            scale=1.0,
            enable_gqa=True,
        )
        out: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
