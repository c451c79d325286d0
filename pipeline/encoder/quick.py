"""Steps of the encoder on the CPU, a block at a time in one piece (:mod:`kernels.conformer`).

What comes out is what :class:`pipeline.encoder.conformer.ConformerBlock` computes, whose operators for the
few frames of 160 ms take less time to compute than to start (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.conformer import Block, Half, Memory, block_step
from pipeline.encoder.conformer import AudioEncoder, BlockState, ConformerBlock, FeedForward
from pipeline.small import array_of, is_small, matrix_of

MOST_FRAMES = 32
"""Most frames of all streams in a step: 160 ms of eight of them."""


class QuickBlocks:
    """The blocks of one encoder in float32 on the CPU.

    Args:
        encoder: its weights must not change.
        positions: of each block, as :class:`~pipeline.encoder.attention.RelativePositionEmbedding` has them.
    """

    def __init__(self, encoder: AudioEncoder, positions: Sequence[Tensor]) -> None:
        self._blocks = [
            _block(block, own, encoder.int8) for block, own in zip(encoder.blocks, positions, strict=True)
        ]

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
    """Whether a step is faster this way."""
    weight = encoder.subsample_conv_projection.input_proj_linear.weight
    return is_small(weight, weight.shape[0], frames, MOST_FRAMES)


def _half(part: FeedForward, int8: bool) -> Half:
    return Half(
        before=array_of(part.pre_layer_norm.weight),
        up=matrix_of(part.ffw_layer_1.weight, int8=int8),
        down=matrix_of(part.ffw_layer_2.weight, int8=int8),
        behind=array_of(part.post_layer_norm.weight),
    )


def _block(block: ConformerBlock, positions: Tensor, int8: bool) -> Block:
    around, conv = block.attention, block.lconv1d
    attention = around.attn
    # The cap's inner division is folded into the query, as LocalAttention does it.
    scale = F.softplus(attention.per_dim_scale) * (attention.query_scale / attention.logit_cap)
    return Block(
        start=_half(block.ffw_layer_start, int8),
        end=_half(block.ffw_layer_end, int8),
        attention_norm=array_of(around.pre_attn_norm.weight),
        query=matrix_of(attention.q_proj.weight, int8=int8),
        key=matrix_of(attention.k_proj.weight, int8=int8),
        value=matrix_of(attention.v_proj.weight, int8=int8),
        post=matrix_of(around.post.weight, int8=int8),
        post_norm=array_of(around.post_norm.weight),
        scale=array_of(scale),
        distances=array_of(positions.transpose(1, 2)),
        conv_before=array_of(conv.pre_layer_norm.weight),
        conv_start=matrix_of(conv.linear_start.weight, int8=int8),
        kernel=array_of(conv.depthwise_conv1d.weight[:, 0].t()),
        conv_norm=array_of(conv.conv_norm.weight),
        conv_end=matrix_of(conv.linear_end.weight, int8=int8),
        norm=array_of(block.norm.weight),
        cap=float(attention.logit_cap),
        clip=float(block.clip),
        residual=float(block.ffw_layer_start.residual_weight),
        eps=float(block.norm.eps or 0.0),
        conv_eps=float(conv.conv_norm.eps or 0.0),
    )
