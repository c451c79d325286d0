"""The per-layer embedding table: one row of every layer's additional input for each token.

It is most of a checkpoint's bytes (4 GB of E2B in bfloat16) and a token reads only one row of it. So it
never enters an accelerator's memory: it stays in the file, mapped, and only rows travel.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import ple
from pipeline.config import TextConfig


class PerLayerEmbedding(nn.Module):
    """Rows of ``model.language_model.embed_tokens_per_layer``, scaled by the root of their width.

    This one can learn, and its table is where the other weights are.

    Args:
        config: sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = config.num_hidden_layers
        self.width = config.hidden_size_per_layer_input
        self.weight = nn.Parameter(torch.empty(config.vocab_size_per_layer_input, self.layers * self.width))
        nn.init.normal_(self.weight)

    def forward(self, token_ids: Tensor, like: Tensor) -> Tensor:
        """Look up tokens; those outside the table, which stand for sound and images, have row 0.

        Args:
            token_ids: [B, T], on any device; on the table's own, nothing waits for an accelerator.
            like: gives device and dtype of the result.

        Returns:
            [B, T, layers, width].
        """
        inside = (token_ids >= 0) & (token_ids < self.weight.shape[0])
        known = torch.where(inside, token_ids, 0).to(self.weight.device)
        rows = F.embedding(known, self.weight).to(like.device, like.dtype)
        scaled: Tensor = torch.unflatten(rows, -1, (self.layers, self.width)) * self.width**0.5
        return scaled


class PerLayerTable(PerLayerEmbedding):
    """The same for inference: read only and on the CPU, mapped from a file, quantised if that is.

    Args:
        config: sizes.
        weight: [rows, layers * width] in bfloat16 or float32, or quantised as :mod:`kernels.ple` has it:
            int8 of the same shape, or uint8 [rows, layers * width / 2]. Other formats of floating point are
            converted to float32, in memory.
        scales: of a quantised table, float32 [rows, layers].
    """

    def __init__(self, config: TextConfig, weight: Tensor, scales: Tensor | None = None) -> None:
        with torch.device("meta"):  # a table that can learn would take memory
            super().__init__(config)
        if scales is None and weight.dtype != torch.bfloat16:
            weight = weight.float()
        self.weight = nn.Parameter(weight, requires_grad=False)
        table = _as_numpy(self.weight)
        _expect_scattered_reads(table)
        if scales is None:
            self._gather = partial(ple.gather, table)
            return
        _expect_scattered_reads(scales.numpy())
        gather = ple.gather_int8 if weight.dtype == torch.int8 else ple.gather_int4
        self._gather = partial(gather, table, scales.numpy())

    def forward(self, token_ids: Tensor, like: Tensor) -> Tensor:
        """Look up tokens as :meth:`PerLayerEmbedding.forward` does; here ids on the CPU are at home."""
        rows = torch.empty(
            (*token_ids.shape, self.layers, self.width),
            dtype=torch.bfloat16 if like.dtype == torch.bfloat16 else torch.float32,
            # Torch keeps such buffers, and reuses one only when its copy has been made.
            pin_memory=like.is_cuda,
        )
        ids = token_ids.to("cpu", torch.int64).flatten()
        self._gather(ids.numpy(), self.width**0.5, _as_numpy(rows.view(-1, self.layers * self.width)))
        return rows.to(like.device, like.dtype, non_blocking=True)


def _as_numpy(tensor: Tensor) -> NDArray[Any]:
    """The same memory; bfloat16, which NumPy does not have, as uint16."""
    array: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _expect_scattered_reads(array: NDArray[Any]) -> None:
    """Keep the system from reading a mapped file ahead: around each row that would be up to megabytes."""
    if hasattr(mmap, "MADV_RANDOM"):
        first, last = array.ctypes.data, array.ctypes.data + array.nbytes
        begin, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:  # advice that is not taken does no harm
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_RANDOM)
