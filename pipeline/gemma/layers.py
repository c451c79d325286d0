"""The decoder's building blocks: norms, LAuReL, AltUp and the feed-forward.

Formulas follow transformers' ``models/gemma3n/modeling_gemma3n.py``; attributes are named as the published
checkpoint names its tensors below ``model.language_model.layers.N.``.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ffn import sparse_feed_forward
from pipeline.config import TextConfig

MOST_GATHERED = 32
"""Most positions for which rows are gathered."""

MOST_PASSED = 4.0
"""Most units that pass, in layers: a share of 0.05 of them for each of 32 positions makes 1.6.

Within these bounds gathering rows was faster than the dense product at every size measured, with one and two
threads (``python -m benchmarks.ffn``, docs/matformer.md). It runs on one thread, so more of them are left to
the dense product.
"""


class RMSNorm(nn.RMSNorm):
    """``x / sqrt(mean(x²) + eps) * weight`` over the last axis; float32 inside, the input's dtype out."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [..., dim]."""
        # The fused kernel wants both of one type; it computes in float32 whatever that is.
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class LaurelBlock(nn.Module):
    """Learned augmented residual: ``x + norm(W_right W_left x)`` (Menghani et al. 2024, arXiv:2411.07501)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.linear_left = nn.Linear(config.hidden_size, config.laurel_rank, bias=False)
        self.linear_right = nn.Linear(config.laurel_rank, config.hidden_size, bias=False)
        self.post_laurel_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same; ``x`` is the normed input of the layer."""
        augmented: Tensor = x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))
        return augmented


class AltUp(nn.Module):
    """Alternating updates: the layer computes one stream, the others are predicted and corrected.

    Baykal et al. 2023, arXiv:2301.13310. Streams are stacked in front: [streams, B, T, hidden].
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        streams, hidden = config.altup_num_inputs, config.hidden_size
        self.streams, self.active = streams, config.altup_active_idx
        self.clip, self.scaled = config.altup_coef_clip, config.altup_correct_scale
        self.router_scale = 1.0 / hidden
        self.correct_output_scale = nn.Parameter(torch.zeros(hidden))
        self.correction_coefs = nn.Linear(streams, streams, bias=False)
        self.prediction_coefs = nn.Linear(streams, streams**2, bias=False)
        self.modality_router = nn.Linear(hidden, streams, bias=False)
        self.router_norm = RMSNorm(hidden, eps=config.rms_norm_eps)

    def modalities(self, x: Tensor) -> Tensor:
        """Router of one stream, [B, T, hidden] -> float32 [B, T, streams]."""
        return torch.tanh(self.modality_router(self.router_norm(x) * self.router_scale).float())

    def predict(self, streams: Tensor) -> Tensor:
        """All streams before the layer, [streams, B, T, hidden] -> the same."""
        modalities = self.modalities(streams[self.active])
        coefficients = self._coefficients(self.prediction_coefs, modalities)
        mixing = torch.unflatten(coefficients, -1, (self.streams, self.streams)).to(streams.dtype)
        # mixing[b, t, i, j]: how much of stream j goes into the prediction of stream i.
        if torch.compiler.is_compiling():
            # Written out it is part of the kernels around it; otherwise it would be four times the streams.
            return streams + (mixing.movedim((2, 3), (0, 1)).unsqueeze(-1) * streams).sum(1)
        return streams + torch.einsum("btij,jbth->ibth", mixing, streams)

    def correct(self, predictions: Tensor, activated: Tensor) -> Tensor:
        """All streams after the layer, from its output ``activated`` [B, T, hidden]."""
        modalities = self.modalities(activated)
        innovation = activated - predictions[self.active]
        gain = self._coefficients(self.correction_coefs, modalities) + 1.0
        return predictions + gain.to(predictions.dtype).movedim(-1, 0).unsqueeze(-1) * innovation

    def scale_output(self, x: Tensor) -> Tensor:
        """The corrected active stream as the per-layer input sees it."""
        scaled: Tensor = (x.float() * self.correct_output_scale.float()).to(x.dtype)
        return scaled

    def _coefficients(self, linear: nn.Linear, modalities: Tensor) -> Tensor:
        weight = linear.weight.float()
        if self.clip is not None and self.training:
            weight = weight.clamp(-self.clip, self.clip)
        if torch.compiler.is_compiling():
            # So few products: written out, they are part of the kernels around them.
            return (modalities.unsqueeze(-2) * weight).sum(-1)
        with torch.autocast(modalities.device.type, enabled=False):
            return F.linear(modalities, weight)


class MLP(nn.Module):
    """Gated feed-forward, of which the first layers keep few gate units (Gaussian top-k).

    The threshold assumes the gate's pre-activations normally distributed, ``mean + std * Phi^-1(sparsity)``
    over the width in use (spark transformer, You et al. 2025, arXiv:2506.06644). Any prefix of the width is
    a MatFormer sub-model (Devvrit et al. 2023, arXiv:2310.07707).

    For a few positions on the CPU, what the gate lets through is gathered and the rest is not computed: see
    :meth:`lay_out`.
    """

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size[layer]
        sparsity = config.activation_sparsity_pattern[layer]
        self.threshold = NormalDist().inv_cdf(sparsity) if sparsity > 0 else None
        self.most_gathered = min(MOST_GATHERED, int(MOST_PASSED / (1 - sparsity))) if sparsity >= 0.5 else 0
        self.laid_out = False
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def lay_out(self) -> None:
        """For inference: where few units pass, have a unit's column of ``down_proj`` lie in one piece.

        The matrix is the same to everyone, and its memory as much as before.
        """
        weight = self.down_proj.weight
        if self.most_gathered and weight.device.type == "cpu" and weight.dtype == torch.float32:
            self.down_proj.weight = nn.Parameter(weight.t().contiguous().t(), requires_grad=False)
            self.laid_out = True

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """[..., hidden] -> the same, through the first ``width`` units; None means all."""
        gate_weight, up_weight, down_weight = (
            self.gate_proj.weight,
            self.up_proj.weight,
            self.down_proj.weight,
        )
        if width is not None and width < gate_weight.shape[0]:
            gate_weight, up_weight, down_weight = (
                gate_weight[:width],
                up_weight[:width],
                down_weight[:, :width],
            )
        positions = x.numel() // x.shape[-1]
        if (
            self.threshold is not None
            and self.laid_out
            and positions <= self.most_gathered
            and torch.get_num_threads() <= 2
        ):
            out = torch.empty(x.shape)
            sparse_feed_forward(
                x.reshape(positions, -1).contiguous().numpy(),
                gate_weight.numpy(),
                up_weight.numpy(),
                down_weight.t().numpy(),
                z=self.threshold,
                out=out.view(positions, -1).numpy(),
            )
            return out
        gate = F.linear(x, gate_weight)
        if self.threshold is not None:
            variance, mean = torch.var_mean(gate.float(), dim=-1, correction=0, keepdim=True)
            gate = F.relu(gate - (mean + variance.sqrt() * self.threshold).to(gate.dtype))
        return F.linear(F.gelu(gate, approximate="tanh") * F.linear(x, up_weight), down_weight)


def match_magnitude(x: Tensor, reference: Tensor) -> Tensor:
    """``x`` with the RMS of ``reference`` over the last axis, both [..., hidden]."""
    target = reference.float().square().mean(-1, keepdim=True).sqrt()
    own = x.float().square().mean(-1, keepdim=True).clamp(min=1e-5).sqrt()
    return (x.float() * (target / own)).to(x.dtype)


SQRT_HALF = math.sqrt(0.5)
