"""The two normalisations of the encoder, both with float32 statistics under any autocast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """``x / sqrt(mean(x²) + eps) * weight`` over the last axis, with the input's dtype as output.

    The weight multiplies directly, without the ``1 +`` of earlier Gemma models.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [..., dim]."""
        # The fused kernel wants both of one type; it computes in float32 whatever that is.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


@dataclass
class NormState:
    """Running statistics of one :class:`CumulativeGroupNorm`.

    Attributes:
        mean: sum of the frames' means, float64 [B].
        variance: sum of the frames' mean squared distances from the running mean, float64 [B].
        frames: how many frames these sums cover, int64 [B].
    """

    mean: Tensor
    variance: Tensor
    frames: Tensor

    @classmethod
    def initial(cls, device: torch.device) -> NormState:
        """State of one stream (B = 1) before its first frame."""
        zeros = torch.zeros(1, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone(), torch.zeros(1, dtype=torch.int64, device=device))


class CumulativeGroupNorm(nn.Module):
    """Group normalisation with one group, over the channels and bins of all frames so far.

    Frame t is normalised by the mean ``μ_t`` of everything up to t and by ``Q_t``, the sum of the
    squared distances of each frame s <= t from its own ``μ_s`` (``Gemma3nAudioCumulativeGroupNorm``
    in transformers' ``modeling_gemma3n.py``). That is not the variance about ``μ_t``, and it makes
    the sums extensible without keeping any frame.

    Args:
        channels: C; the learned scale is per channel.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, state: NormState | None = None) -> Tensor:
        """Normalise ``x`` [B, C, T, F]; with a state, as the continuation of what it has seen."""
        wide = x.float()
        # Every frame has the same number of values, so sums over values become sums over frames of
        # per-frame moments, Σ(x - μ)² = var + (mean - μ)²: one pass over x, and nothing cancels.
        frame_variance, frame_mean = (
            moment.double() for moment in torch.var_mean(wide, dim=(1, 3), correction=0)
        )
        count = torch.arange(1, 1 + x.shape[2], dtype=torch.float64, device=x.device)
        if state:
            count = count + state.frames[:, None]
        mean_sum = frame_mean.cumsum(1)
        if state:
            mean_sum = mean_sum + state.mean[:, None]
        mean = mean_sum / count
        variance_sum = (frame_variance + (frame_mean - mean).square()).cumsum(1)
        if state:
            variance_sum = variance_sum + state.variance[:, None]
        variance = variance_sum / count
        if state:
            state.mean = mean_sum[:, -1].clone()
            state.variance = variance_sum[:, -1].clone()
            state.frames = state.frames + x.shape[2]
        scale = torch.rsqrt(variance + self.eps).float()[:, None, :, None]
        scale = scale * self.weight.float()[:, None, None]
        return ((wide - mean.float()[:, None, :, None]) * scale).to(x.dtype)
