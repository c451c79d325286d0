"""The convolution stem: log-mel frames to one vector per four of them (SSCP)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import AudioConfig
from pipeline.encoder.norm import CumulativeGroupNorm, NormState
from pipeline.errors import CheckpointError

FREQUENCY_PADDING = 1
"""Zero bins on either side of every convolution's input, whatever its kernel, as in the reference."""


@dataclass
class ConvState:
    """What one :class:`ConvBlock` remembers of a stream.

    Attributes:
        tail: the last input frames that a coming output still needs, [1, C_in, < kernel, F_in].
        norm: running statistics.
    """

    tail: Tensor
    norm: NormState


class ConvBlock(nn.Module):
    """Strided 2-D convolution, cumulative group norm, ReLU.

    In time the convolution is "reverse causal": output t covers the ``kernel`` input frames from
    ``stride * t`` on, and ``kernel - 1`` zero frames follow the last. All look-ahead of the
    encoder is here.

    Args:
        config: the encoder's configuration.
        index: which of the two blocks.
        bins: F_in, the input's bins.
    """

    def __init__(self, config: AudioConfig, index: int, bins: int) -> None:
        super().__init__()
        kernel = config.sscp_conv_kernel_size[index]
        stride = config.sscp_conv_stride_size[index]
        if kernel[0] < stride[0]:
            raise CheckpointError(
                f"config.json: sscp_conv_kernel_size[{index}][0] must be at least its stride {stride[0]}, "
                f"got {kernel[0]}"
            )
        self.kernel, self.stride = kernel[0], stride[0]
        self.bins_in, self.bins_out = bins, (bins + 2 * FREQUENCY_PADDING - kernel[1]) // stride[1] + 1
        channels_in = config.sscp_conv_channel_size[index - 1] if index else 1
        channels_out = config.sscp_conv_channel_size[index]
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=(0, FREQUENCY_PADDING), bias=False
        )
        self.norm = CumulativeGroupNorm(channels_out, config.sscp_conv_group_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Whole sequence, [B, C_in, T, F_in] -> [B, C_out, ceil(T / stride), F_out]."""
        return self._convolve(F.pad(x, (0, 0, 0, self.kernel - 1)))

    def initial_state(self) -> ConvState:
        """State of a stream before its first frame."""
        weight = self.conv.weight
        tail = weight.new_zeros(1, self.conv.in_channels, 0, self.bins_in)
        return ConvState(tail, NormState.initial(weight.device))

    def step(self, x: Tensor, state: ConvState, *, last: bool = False) -> Tensor:
        """Continue a stream with ``x`` [1, C_in, T, F_in]; ``last`` adds the zero frames of its end.

        Returns:
            The output frames that became certain, [1, C_out, n, F_out] with n >= 0.
        """
        x = torch.cat([state.tail, x], dim=2)
        if last:
            x = F.pad(x, (0, 0, 0, self.kernel - 1))
        frames = max(0, (x.shape[2] - self.kernel) // self.stride + 1)
        # A slice would keep the whole piece alive behind the few frames that are needed.
        state.tail = x[:, :, frames * self.stride :].clone()
        return self._convolve(x, state.norm)

    def _convolve(self, x: Tensor, norm: NormState | None = None) -> Tensor:
        if x.shape[2] < self.kernel:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0, self.bins_out)
        return F.relu(self.norm(self.conv(x), norm))


class SubSampleConvProjection(nn.Module):
    """Two :class:`ConvBlock` and a linear projection to the encoder's width."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.conv_0 = ConvBlock(config, 0, config.input_feat_size)
        self.conv_1 = ConvBlock(config, 1, self.conv_0.bins_out)
        features = self.conv_1.bins_out * config.sscp_conv_channel_size[1]
        self.input_proj_linear = nn.Linear(features, config.hidden_size, bias=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Whole sequence, mel [B, T, F] -> [B, ceil(T / 4), hidden] with the published strides."""
        x = mel.to(self.conv_0.conv.weight.dtype)[:, None]
        return self._project(self.conv_1(self.conv_0(x)))

    def initial_state(self) -> tuple[ConvState, ConvState]:
        """State of a stream before its first frame."""
        return self.conv_0.initial_state(), self.conv_1.initial_state()

    def step(self, mel: Tensor, state: tuple[ConvState, ConvState], *, last: bool = False) -> Tensor:
        """Continue a stream with mel [1, T, F]; returns the frames that became certain, [1, n, hidden]."""
        x = mel.to(self.conv_0.conv.weight.dtype)[:, None]
        x = self.conv_0.step(x, state[0], last=last)
        return self._project(self.conv_1.step(x, state[1], last=last))

    def _project(self, x: Tensor) -> Tensor:
        projected: Tensor = self.input_proj_linear(x.permute(0, 2, 3, 1).flatten(2))
        return projected
