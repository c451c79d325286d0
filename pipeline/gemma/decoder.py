"""The Gemma 3n text decoder.

``model.language_model`` of the published checkpoints; formulas follow transformers'
``models/gemma3n/modeling_gemma3n.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import SLIDING, TextConfig
from pipeline.gemma.attention import Attention, rotary_table
from pipeline.gemma.layers import MLP, SQRT_HALF, AltUp, LaurelBlock, RMSNorm, match_magnitude


class DecoderLayer(nn.Module):
    """AltUp prediction, attention beside LAuReL, feed-forward, AltUp correction, per-layer input."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.active = config.altup_active_idx
        self.scaled = config.altup_correct_scale
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config, layer)
        self.altup = AltUp(config)
        self.laurel = LaurelBlock(config)
        self.input_layernorm = RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps=eps)
        self.pre_feedforward_layernorm = RMSNorm(hidden, eps=eps)
        self.post_feedforward_layernorm = RMSNorm(hidden, eps=eps)
        self.per_layer_input_gate = nn.Linear(hidden, config.hidden_size_per_layer_input, bias=False)
        self.per_layer_projection = nn.Linear(config.hidden_size_per_layer_input, hidden, bias=False)
        self.post_per_layer_input_norm = RMSNorm(hidden, eps=eps)

    def forward(
        self,
        streams: Tensor,
        per_layer: Tensor,
        table: tuple[Tensor, Tensor],
        shared: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        width: int | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[streams, B, T, hidden] -> the same, and the keys and values that were attended to."""
        predictions = self.altup.predict(streams)
        active = predictions[self.active]
        normed = self.input_layernorm(active)
        laurel = self.laurel(normed)
        keys, values = shared if shared is not None else self.self_attn.keys_values(normed, table)
        attended = self.post_attention_layernorm(self.self_attn(normed, table, keys, values, mask))
        attended = (active + attended + laurel) * SQRT_HALF
        fed = self.mlp(self.pre_feedforward_layernorm(attended), width)
        activated = attended + self.post_feedforward_layernorm(fed)
        corrected = self.altup.correct(predictions, activated)
        first = corrected[self.active]
        if self.scaled:
            first = self.altup.scale_output(first)
        gated = F.gelu(self.per_layer_input_gate(first), approximate="tanh") * per_layer
        update = self.post_per_layer_input_norm(self.per_layer_projection(gated))
        # Every stream but the first, whichever is active, receives the per-layer input.
        return torch.cat([corrected[:1], corrected[1:] + update]), (keys, values)


class Decoder(nn.Module):
    """Token ids and input embeddings to logits.

    Args:
        config: sizes and constants.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        hidden, layers = config.hidden_size, config.num_hidden_layers
        per_layer = layers * config.hidden_size_per_layer_input
        self.embed_tokens = nn.Embedding(config.vocab_size, hidden)
        self.embed_tokens_per_layer = nn.Embedding(config.vocab_size_per_layer_input, per_layer)
        self.per_layer_model_projection = nn.Linear(hidden, per_layer, bias=False)
        self.per_layer_projection_norm = RMSNorm(config.hidden_size_per_layer_input, eps=config.rms_norm_eps)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(layers))
        self.norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        extra = range(config.altup_num_inputs - 1)
        self.altup_projections = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in extra)
        self.altup_unembed_projections = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in extra)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Scaled embeddings of text tokens, [...] -> [..., hidden]."""
        return self.embed_tokens(token_ids) * self.config.hidden_size**0.5

    def per_layer_inputs(self, token_ids: Tensor, embeddings: Tensor) -> Tensor:
        """What each layer receives beside its input, [B, T] and [B, T, hidden] -> [layers, B, T, ple]."""
        config = self.config
        shape = (config.num_hidden_layers, config.hidden_size_per_layer_input)
        known = torch.where(token_ids < config.vocab_size_per_layer_input, token_ids, 0)
        table = self.embed_tokens_per_layer(known) * config.hidden_size_per_layer_input**0.5
        projected = self.per_layer_model_projection(embeddings) * config.hidden_size**-0.5
        projected = self.per_layer_projection_norm(projected.unflatten(-1, shape))
        return ((projected + table.unflatten(-1, shape).to(projected.dtype)) * SQRT_HALF).movedim(-2, 0)

    def hidden(
        self, token_ids: Tensor, embeddings: Tensor, *, ffn_widths: Sequence[int] | None = None
    ) -> Tensor:
        """Final hidden states of whole sequences, right-padded if need be: everything is causal.

        Args:
            token_ids: [B, T].
            embeddings: input embeddings with audio merged in, [B, T, hidden].
            ffn_widths: of a MatFormer sub-model, one per layer.

        Returns:
            [B, T, hidden].
        """
        config = self.config
        per_layer = self.per_layer_inputs(token_ids, embeddings)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        tables = {
            kind: rotary_table(positions, config.head_dim, theta)
            for kind, theta in ((SLIDING, config.rope_local_base_freq), ("full_attention", config.rope_theta))
        }
        distance = positions[:, None] - positions
        window = (distance >= 0) & (distance < config.sliding_window)
        masks = {SLIDING: window if len(positions) > config.sliding_window else None, "full_attention": None}
        streams = self._expand(embeddings)
        kept: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            kind, source = config.layer_types[index], config.kv_source(index)
            streams, kv = layer(
                streams,
                per_layer[index],
                tables[kind],
                kept[source] if source < index else None,
                masks[kind],
                ffn_widths[index] if ffn_widths is not None else None,
            )
            kept.append(kv)
        return self._reduce(streams)

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits of final hidden states, [..., hidden] -> [..., vocab]."""
        raw = F.linear(hidden, self.embed_tokens.weight)
        cap = self.config.final_logit_softcapping
        return raw if cap is None else torch.tanh(raw / cap) * cap

    def _expand(self, embeddings: Tensor) -> Tensor:
        others = [match_magnitude(project(embeddings), embeddings) for project in self.altup_projections]
        return torch.stack([embeddings, *(other.to(embeddings.dtype) for other in others)])

    def _reduce(self, streams: Tensor) -> Tensor:
        others = [
            match_magnitude(project(stream), streams[0])
            for project, stream in zip(self.altup_unembed_projections, streams[1:], strict=True)
        ]
        normed: Tensor = self.norm(torch.stack([streams[0], *others]).mean(0))
        return normed
