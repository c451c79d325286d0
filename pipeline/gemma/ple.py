"""The per-layer embedding table: one row of every layer's additional input for each token.

It is most of a checkpoint's bytes (4 GB of E2B in bfloat16) and a token reads only one row of it, so it
stays apart from what an accelerator holds: the table may lie on another device and in another dtype than
the rest of the decoder, for instance as it is mapped from the checkpoint's file. Only rows travel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import TextConfig


class PerLayerEmbedding(nn.Module):
    """Rows of ``model.language_model.embed_tokens_per_layer``, scaled by the root of their width.

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
        known = torch.where(token_ids < self.weight.shape[0], token_ids, 0).to(self.weight.device)
        rows = F.embedding(known, self.weight).to(like.device, like.dtype)
        scaled: Tensor = torch.unflatten(rows, -1, (self.layers, self.width)) * self.width**0.5
        return scaled
