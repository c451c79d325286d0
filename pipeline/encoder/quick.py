"""Steps of the encoder on the CPU, a block at a time in one piece (:mod:`kernels.conformer`).

What comes out is what :class:`pipeline.encoder.conformer.ConformerBlock` computes, whose operators for the
few frames of 160 ms take less time to compute than to start (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kernels.conformer import Block, Half, Memory, block_step
from pipeline.encoder.conformer import AudioEncoder, BlockState, ConformerBlock, FeedForward

MOST_FRAMES = 32
"""Most frames of all streams in a step: 160 ms of eight of them."""

MOST_HIDDEN = 256
"""Widest encoder: that of the bundled model, which is what was measured."""


class QuickBlocks:
    """The blocks of one encoder in float32 on the CPU.

    Args:
        encoder: its weights must not change.
        positions: of each block, as :class:`~pipeline.encoder.attention.RelativePositionEmbedding` has them.
    """

    def __init__(self, encoder: AudioEncoder, positions: Sequence[Tensor]) -> None:
        self._blocks = [_block(*both) for both in zip(encoder.blocks, positions, strict=True)]

    def __call__(self, x: Tensor, states: Sequence[BlockState], seen: int) -> Tensor:
        """Run all blocks, which advances their states.

        Args:
            x: the stem's frames of streams that are alike, [B, T, hidden].
            states: of each block.
            seen: frames of each stream before these.

        Returns:
            [B, T, hidden].
        """
        frames = x.contiguous().numpy()
        for block, state in zip(self._blocks, states, strict=True):
            attention = state.attention
            attention.keys, attention.values = attention.keys.contiguous(), attention.values.contiguous()
            state.gated = state.gated.contiguous()
            memory = Memory(attention.keys.numpy(), attention.values.numpy(), state.gated.numpy())
            frames = block_step(frames, memory, seen, block)
        return torch.from_numpy(frames)


def suits(encoder: AudioEncoder, frames: int) -> bool:
    """Whether a step is faster this way: of a small encoder in float32, with one thread or two."""
    weight = encoder.subsample_conv_projection.input_proj_linear.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[0] <= MOST_HIDDEN
        and frames <= MOST_FRAMES
        and torch.get_num_threads() <= 2
    )


def _array(weight: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(weight.detach().numpy())


def _half(part: FeedForward) -> Half:
    return Half(
        before=_array(part.pre_layer_norm.weight),
        up=_array(part.ffw_layer_1.weight),
        down=_array(part.ffw_layer_2.weight),
        behind=_array(part.post_layer_norm.weight),
    )


def _block(block: ConformerBlock, positions: Tensor) -> Block:
    around, conv = block.attention, block.lconv1d
    attention = around.attn
    # The cap's inner division is folded into the query, as LocalAttention does it.
    scale = F.softplus(attention.per_dim_scale) * (attention.query_scale / attention.logit_cap)
    return Block(
        start=_half(block.ffw_layer_start),
        end=_half(block.ffw_layer_end),
        attention_norm=_array(around.pre_attn_norm.weight),
        query=_array(attention.q_proj.weight),
        key=_array(attention.k_proj.weight),
        value=_array(attention.v_proj.weight),
        post=_array(around.post.weight),
        post_norm=_array(around.post_norm.weight),
        scale=_array(scale),
        distances=_array(positions.transpose(1, 2)),
        conv_before=_array(conv.pre_layer_norm.weight),
        conv_start=_array(conv.linear_start.weight),
        kernel=_array(conv.depthwise_conv1d.weight[:, 0].t()),
        conv_norm=_array(conv.conv_norm.weight),
        conv_end=_array(conv.linear_end.weight),
        norm=_array(block.norm.weight),
        cap=float(attention.logit_cap),
        clip=float(block.clip),
        residual=float(block.ffw_layer_start.residual_weight),
        eps=float(block.norm.eps or 0.0),
        conv_eps=float(conv.conv_norm.eps or 0.0),
    )
