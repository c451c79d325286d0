"""Rotary, grouped-query attention with normed queries, keys and values, and no scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import TextConfig
from pipeline.gemma.layers import RMSNorm
from pipeline.gemma.paged import Pages, attend


class View(NamedTuple):
    """What the queries of one pass through the layers of one kind, sliding or full, need to know.

    A pass runs over whole sequences [B, T], or over the next positions of many, one behind the other [1, N].
    In the latter each sequence attends to its own keys, so its queries are set apart for that.

    Attributes:
        cos: cosines of RoPE (Su et al. 2021, arXiv:2104.09864) for the queries, [T or N, head_dim].
        sin: sines.
        mask: float, -inf where attention is not allowed, [T, S] or [sequences, 1, T, S]; None if that is
            plain causal.
        apart: which of N queries is where when they are set apart, int64 [sequences, T], some of them twice
            where a sequence has fewer than others; None if each has the same number, or for whole sequences.
        together: where among these each of the N is, int64 [N]; None if ``apart`` is.
        pages: where the keys are read that lie in blocks; None where they were copied beside each other.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    apart: Tensor | None = None
    together: Tensor | None = None
    pages: Pages | None = None

    @classmethod
    def of_whole(
        cls, length: int, *, head_dim: int, theta: float, window: int | None, like: Tensor, last: int
    ) -> View:
        """View of the ``last`` positions of whole sequences.

        Args:
            length: of the sequences.
            head_dim: width of a head.
            theta: base of RoPE.
            window: how many keys a query sees, its own included; None for all.
            like: gives device and dtype.
            last: how many positions are queries.
        """
        keys = torch.arange(length, device=like.device)
        queries = keys[length - last :]
        mask = None
        if last < length or (window is not None and window < length):
            mask = _mask(queries[:, None] - keys, window, like.dtype)
        return cls(*_rotation(queries, head_dim, theta, like.dtype), mask)

    @classmethod
    def of_next(
        cls,
        positions: Tensor,
        first: Tensor,
        visible: int,
        *,
        head_dim: int,
        theta: float,
        window: int | None,
        dtype: torch.dtype,
        apart: Tensor | None,
        together: Tensor | None,
    ) -> View:
        """View of the next positions of many sequences.

        Args:
            positions: of the queries, each in its sequence, int64 [N].
            first: position of the first key that is read of each sequence, int64 [sequences].
            visible: how many keys are read of each.
            head_dim: width of a head.
            theta: base of RoPE.
            window: how many keys a query sees, its own included; None for all.
            dtype: of queries and keys.
            apart: as above.
            together: as above.
        """
        keys = first[:, None] + torch.arange(visible, device=first.device)
        queries = positions.view(len(first), -1) if apart is None else positions[apart]
        mask = _mask(queries[:, :, None] - keys[:, None], window, dtype)
        return cls(*_rotation(positions, head_dim, theta, dtype), mask[:, None], apart, together)

    @classmethod
    def of_pages(cls, pages: Pages, *, head_dim: int, theta: float, dtype: torch.dtype) -> View:
        """View of the next positions of many sequences whose keys and values are read in their blocks.

        Args:
            pages: of the queries.
            head_dim: width of a head.
            theta: base of RoPE.
            dtype: of queries and keys.
        """
        return cls(*_rotation(pages.positions, head_dim, theta, dtype), None, pages=pages)


def _rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angle = positions.float()[:, None] / theta**exponents
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _mask(distance: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return torch.zeros_like(distance, dtype=dtype).masked_fill(~seen, -torch.inf)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to ``x`` [B, heads, T, head_dim], halves rotated against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


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
        return self._rotated_keys(x, view.cos, view.sin)

    def fuse(self) -> None:
        """See :meth:`pipeline.gemma.decoder.DecoderLayer.fuse`."""
        for name in ("_rotated_queries", "_rotated_keys"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=True))

    def forward(self, x: Tensor, view: View, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to all keys that ``view`` allows.

        Args:
            x: the layer's normed input, [B, T, hidden], or [1, N, hidden] of many sequences.
            view: of its positions.
            keys: [B or sequences, kv_heads, S, head_dim]; with pages as :func:`pipeline.gemma.paged.attend`
                has them.
            values: the same.

        Returns:
            The shape of ``x``.
        """
        if view.pages is not None:
            query = self._rotated_queries(x, view.cos, view.sin)
            read: Tensor = self.o_proj(attend(query, keys, values, view.pages))
            return read
        many = keys.shape[0] != x.shape[0]
        query = self._queries(x, view, keys.shape[0])
        # The query heads that share a head of keys are taken for further queries of it.
        heads, mask = keys.shape[1], view.mask
        group, each = query.shape[1] // heads, query.shape[2]
        query = torch.unflatten(query, 1, (heads, group))
        if mask is None:
            attended = F.scaled_dot_product_attention(
                query.flatten(1, 2), keys, values, is_causal=each > 1, scale=1.0, enable_gqa=True
            )
        else:
            mask = mask.unsqueeze(-3).expand(*mask.shape[:-2], group, *mask.shape[-2:]).flatten(-3, -2)
            attended = F.scaled_dot_product_attention(
                query.flatten(2, 3), keys, values, attn_mask=mask, scale=1.0
            )
            attended = torch.unflatten(attended, 2, (group, each)).flatten(1, 2)
        attended = attended.transpose(1, 2).flatten(2)  # [sequences, each, heads * head_dim]
        if view.together is not None:
            attended = attended.flatten(0, 1)[None, view.together]
        elif many:
            attended = attended.reshape(1, x.shape[1], -1)
        out: Tensor = self.o_proj(attended)
        return out

    def weights(self, x: Tensor, view: View, keys: Tensor) -> Tensor:
        """How much each position of many sequences attends to each key of its own, for who wants to see it.

        Args:
            x: as for :meth:`forward`, [1, N, hidden].
            view: of its positions.
            keys: [sequences, kv_heads, S, head_dim].

        Returns:
            Probabilities, float32 [N, heads, S].
        """
        assert view.mask is not None
        query = self._queries(x, view, keys.shape[0])
        scores = torch.unflatten(query, 1, (keys.shape[1], -1)) @ keys.transpose(2, 3).unsqueeze(2)
        weights = (scores.flatten(1, 2) + view.mask).float().softmax(-1)  # [sequences, heads, each, S]
        weights = weights.transpose(1, 2).flatten(0, 1)
        return weights if view.together is None else weights[view.together]

    def _queries(self, x: Tensor, view: View, sequences: int) -> Tensor:
        """Queries of each sequence, [sequences, heads, each, head_dim]."""
        query = self._rotated_queries(x, view.cos, view.sin)
        if view.apart is not None:
            return query[0][:, view.apart].transpose(0, 1)
        if sequences != query.shape[0]:
            return torch.unflatten(query[0], 1, (sequences, -1)).transpose(0, 1)
        return query

    def _rotated_queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(self.q_norm(self._split(self.q_proj(x))), cos, sin)

    def _rotated_keys(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        key = rotate(self.k_norm(self._split(self.k_proj(x))), cos, sin)
        return key, self.v_norm(self._split(self.v_proj(x)))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
