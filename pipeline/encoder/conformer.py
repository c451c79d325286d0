"""The Universal Speech Model encoder of Gemma 3n: convolution stem, conformer blocks, reduction.

After Zhang et al. 2023, *Google USM* (arXiv:2303.01037), and Gulati et al. 2020, *Conformer*
(arXiv:2005.08100); details follow transformers' ``models/gemma3n/modeling_gemma3n.py``. Attributes
are named as the published checkpoint names its tensors below ``model.audio_tower.``.

Everything behind the stem is causal, and the stem looks ahead by a fixed six mel frames. So no
function here takes a padding mask: sequences padded on the right yield, in front of their padding,
what they yield alone (but for the last two frames, whose look-ahead falls on the padding), and the
caller drops the rest by length.

PyTorch's initial weights are fit for training from scratch: every branch ends in a norm, the norms
start at one and ``per_dim_scale`` at zero, where it stands for the usual ``1 / sqrt(head_dim)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import AudioConfig
from pipeline.encoder.attention import AttentionState, LocalAttention, window_mask
from pipeline.encoder.norm import RMSNorm
from pipeline.encoder.subsample import SubSampleConvProjection


@dataclass
class BlockState:
    """What one :class:`ConformerBlock` remembers of a stream.

    Attributes:
        attention: keys and values of the last L frames.
        gated: input of the depthwise convolution for its last ``kernel - 1`` frames, [1, hidden, kernel - 1].
    """

    attention: AttentionState
    gated: Tensor


class FeedForward(nn.Module):
    """Half-step feed-forward: ``x + weight * norm(W2 silu(W1 norm(x)))``."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.clip = config.gradient_clipping
        self.residual_weight = config.conf_residual_weight
        self.pre_layer_norm = RMSNorm(hidden, eps=1e-6)
        self.ffw_layer_1 = nn.Linear(hidden, 4 * hidden, bias=False)
        self.ffw_layer_2 = nn.Linear(4 * hidden, hidden, bias=False)
        self.post_layer_norm = RMSNorm(hidden, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] -> the same."""
        y = self.pre_layer_norm(x.clamp(-self.clip, self.clip))
        y = self.ffw_layer_2(F.silu(self.ffw_layer_1(y)))
        y = self.post_layer_norm(y.clamp(-self.clip, self.clip))
        return torch.add(x, y, alpha=self.residual_weight)


class ConformerAttention(nn.Module):
    """``x + norm(W attention(norm(x)))``."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.clip = config.gradient_clipping
        self.pre_attn_norm = RMSNorm(config.hidden_size, eps=1e-6)
        self.attn = LocalAttention(config)
        self.post = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_norm = RMSNorm(config.hidden_size, eps=1e-6)

    def forward(
        self, x: Tensor, mask: Tensor, state: AttentionState | None, positions: Tensor | None
    ) -> Tensor:
        """[B, T, hidden] -> the same; the other arguments are those of :class:`LocalAttention`."""
        y = self.pre_attn_norm(x.clamp(-self.clip, self.clip))
        y = self.post(self.attn(y, mask, state, positions))
        y = self.post_norm(y.clamp(-self.clip, self.clip))
        return torch.add(x, y)


class LightConv(nn.Module):
    """``x + W silu(norm(depthwise_conv(glu(W norm(x)))))``, the convolution causal."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.clip = config.gradient_clipping
        self.past = config.conf_conv_kernel_size - 1
        self.pre_layer_norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        self.linear_start = nn.Linear(hidden, 2 * hidden, bias=False)
        self.depthwise_conv1d = nn.Conv1d(
            hidden, hidden, config.conf_conv_kernel_size, groups=hidden, bias=False
        )
        self.conv_norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        self.linear_end = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, state: BlockState | None) -> Tensor:
        """[B, T, hidden] -> the same; continues and updates ``state.gated``."""
        gated = F.glu(self.linear_start(self.pre_layer_norm(x)), dim=-1).transpose(1, 2)
        if state is None:
            gated = F.pad(gated, (self.past, 0))
        else:
            gated = torch.cat([state.gated, gated], dim=2)
            state.gated = gated[:, :, x.shape[1] :].clone()
        y = self.depthwise_conv1d(gated).transpose(1, 2)
        y = self.linear_end(F.silu(self.conv_norm(y.clamp(-self.clip, self.clip))))
        return torch.add(x, y)


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, light convolution, half feed-forward, norm."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.clip = config.gradient_clipping
        self.ffw_layer_start = FeedForward(config)
        self.attention = ConformerAttention(config)
        self.lconv1d = LightConv(config)
        self.ffw_layer_end = FeedForward(config)
        self.norm = RMSNorm(config.hidden_size, eps=1e-6)

    def initial_state(self) -> BlockState:
        """State of a stream before its first frame."""
        weight = self.lconv1d.depthwise_conv1d.weight
        gated = weight.new_zeros(1, weight.shape[0], self.lconv1d.past)
        return BlockState(self.attention.attn.initial_state(), gated)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        state: BlockState | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """[B, T, hidden] -> the same; with a state, as the continuation of what it has seen."""
        x = self.ffw_layer_start(x)
        x = self.attention(x, mask, state.attention if state else None, positions)
        x = self.lconv1d(x, state)
        x = self.ffw_layer_end(x)
        normed: Tensor = self.norm(x.clamp(-self.clip, self.clip))
        return normed


class AudioEncoder(nn.Module):
    """Log-mel frames to soft encodings, one per 160 ms as published.

    ``forward`` is the whole-sequence form, for training and recordings. For audio that is still
    arriving see :class:`pipeline.encoder.streaming.StreamingEncoder`.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.subsample_conv_projection = SubSampleConvProjection(config)
        # Whether small steps read matrices as int8, which these have been rounded to.
        self.int8 = False
        self.conformer = nn.ModuleList(ConformerBlock(config) for _ in range(config.conf_num_hidden_layers))

    @property
    def frame_stride(self) -> int:
        """Mel frames per conformer frame (4 as published)."""
        return math.prod(stride for stride, _ in self.config.sscp_conv_stride_size)

    @property
    def token_stride(self) -> int:
        """Mel frames per soft encoding (16 as published)."""
        return self.frame_stride * self.config.conf_reduction_factor

    @property
    def first_frames(self) -> int:
        """Mel frames that the first soft encoding needs (7 as published)."""
        (first, _), (second, _) = self.config.sscp_conv_kernel_size
        return (second - 1) * self.config.sscp_conv_stride_size[0][0] + first

    @property
    def blocks(self) -> Iterable[ConformerBlock]:
        """The conformer blocks in order (a ``ModuleList`` does not say what it holds)."""
        return cast("Iterable[ConformerBlock]", self.conformer)

    def window_mask(self, frames: int, seen: int | Tensor = 0) -> Tensor:
        """The attention mask for ``frames`` conformer frames after ``seen`` earlier ones."""
        return window_mask(
            frames,
            seen,
            past=max(0, self.config.conf_attention_context_left - 1),
            block=self.config.conf_attention_chunk_size,
            device=self.subsample_conv_projection.input_proj_linear.weight.device,
        )

    def frames(self, mel: Tensor) -> Tensor:
        """Encode without the reduction, mel [B, T, F] -> [B, ceil(T / 4), hidden].

        This is where a frame-level training loss (CTC) attaches; :meth:`reduce` does the rest.
        """
        x: Tensor = self.subsample_conv_projection(mel)
        if x.shape[1]:
            mask = self.window_mask(x.shape[1])
            for block in self.blocks:
                x = block(x, mask)
        return x

    def reduce(self, frames: Tensor, seen: int = 0) -> Tensor:
        """Keep every 4th conformer frame of a stream, of which ``seen`` frames came before these."""
        factor = self.config.conf_reduction_factor
        return frames[:, -seen % factor :: factor]

    def forward(self, mel: Tensor) -> Tensor:
        """Encode mel [B, T, F] -> [B, ceil(T / 16), hidden]."""
        return self.reduce(self.frames(mel))
