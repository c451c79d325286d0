"""Keys and values of one sequence, which can be extended, cut back and forked."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from pipeline.config import TextConfig

INITIAL_CAPACITY = 256


class KVCache:
    """Normed and rotated keys, and values, of the layers that compute their own.

    Layers above the sharing point have none. Sliding layers keep what has left their window too, so that
    :meth:`truncate` can go back to any length; they only look at their window.

    Args:
        config: sizes.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(self, config: TextConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._length = 0
        # [layer, key or value, kv head, position, head_dim]
        self._buffer = torch.empty(
            (config.first_shared_layer, 2, config.num_key_value_heads, INITIAL_CAPACITY, config.head_dim),
            dtype=dtype,
            device=device,
        )

    @property
    def length(self) -> int:
        """Positions held."""
        return self._length

    @torch.no_grad()
    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's part of new positions behind those held.

        Positions count as held when all layers have written them: then call :meth:`advance`.

        Args:
            layer: below the sharing point.
            keys: [1, kv_heads, T, head_dim].
            values: the same.

        Returns:
            Keys and values of all positions, the new ones included, [1, kv_heads, length + T, head_dim].
        """
        end = self._length + keys.shape[2]
        if end > self._buffer.shape[3]:
            grown = self._buffer.new_empty(
                (*self._buffer.shape[:3], max(end, 2 * self._buffer.shape[3]), self._buffer.shape[4])
            )
            # With what earlier layers have written of the new positions.
            grown[:, :, :, : self._buffer.shape[3]] = self._buffer
            self._buffer = grown
        own = self._buffer[layer]
        own[0, :, self._length : end] = keys[0]
        own[1, :, self._length : end] = values[0]
        return own[None, 0, :, :end], own[None, 1, :, :end]

    def advance(self, count: int) -> None:
        """Hold the ``count`` positions that all layers have written."""
        self._length += count

    def truncate(self, length: int) -> None:
        """Forget all positions from ``length`` on.

        Raises:
            ValueError: fewer are held.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot truncate a cache of {self._length} positions to {length}")
        self._length = length

    def fork(self) -> Self:
        """An independent copy, from which the sequence can go on in another way."""
        twin = object.__new__(type(self))
        twin._length = self._length
        twin._buffer = self._buffer.clone()
        return twin
