"""Weights in int8 on the CPU: where reading them is what takes the time, a quarter of the bytes are read.

That is in small passes (:mod:`pipeline.small`). All others compute with the same rounded weights in float32,
so that a sequence is continued by the model that began it, whichever way its passes take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.encoder.conformer import AudioEncoder
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.layers import MLP
from pipeline.small import rounded


@torch.no_grad()
def round_weights(part: AudioEncoder | Decoder) -> None:
    """Round the matrices of a part of the model to what int8 can hold, and have small passes read them so.

    The table of per-layer embeddings stays: it has a format of its own.
    """
    by_unit = {module.down_proj for module in part.modules() if isinstance(module, MLP) and module.laid_out}
    for module in part.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            weight = module.weight
            module.weight = _fixed(rounded(weight.t()).t() if module in by_unit else rounded(weight))
    part.int8 = True


def _fixed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
