"""The Gemma 3n text decoder.

``model.language_model`` of the published checkpoints; formulas follow transformers'
``models/gemma3n/modeling_gemma3n.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import FULL, SLIDING, TextConfig
from pipeline.gemma.attention import Attention, View
from pipeline.gemma.cache import KVCache
from pipeline.gemma.layers import MLP, SQRT_HALF, AltUp, LaurelBlock, RMSNorm, match_magnitude
from pipeline.gemma.ple import PerLayerEmbedding


class DecoderLayer(nn.Module):
    """AltUp prediction, attention beside LAuReL, feed-forward, AltUp correction, per-layer input."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.index = layer
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
        view: View,
        *,
        shared: tuple[Tensor, Tensor] | None,
        width: int | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over the last T of S positions.

        Args:
            streams: [streams, B, T, hidden].
            per_layer: this layer's additional input, [B, T, ple].
            view: what the T positions see.
            shared: keys and values of the layer that this one shares them with.
            width: of the feed-forward; None for all of it.
            cache: holds the S - T positions before; None if there are none.

        Returns:
            The streams, and keys and values of all S positions.
        """
        predictions = self.altup.predict(streams)
        active = predictions[self.active]
        normed = self.input_layernorm(active)
        laurel = self.laurel(normed)
        if shared is None:
            shared = self.self_attn.keys_values(normed, view)
            if cache is not None:
                shared = cache.append(self.index, *shared)
        attended = self.post_attention_layernorm(self.self_attn(normed, view, *shared))
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
        return torch.cat([corrected[:1], corrected[1:] + update]), shared


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
        self.embed_tokens_per_layer = PerLayerEmbedding(config)
        self.per_layer_model_projection = nn.Linear(hidden, per_layer, bias=False)
        self.per_layer_projection_norm = RMSNorm(config.hidden_size_per_layer_input, eps=config.rms_norm_eps)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(layers))
        self.norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        extra = range(config.altup_num_inputs - 1)
        self.altup_projections = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in extra)
        self.altup_unembed_projections = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in extra)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Scaled embeddings of text tokens, [...] -> [..., hidden]."""
        scaled: Tensor = self.embed_tokens(token_ids) * self.config.hidden_size**0.5
        return scaled

    def per_layer_inputs(self, token_ids: Tensor, embeddings: Tensor) -> Tensor:
        """What each layer receives beside its input, [B, T] and [B, T, hidden] -> [layers, B, T, ple]."""
        rows: Tensor = self.embed_tokens_per_layer(token_ids, embeddings)
        projected = self.per_layer_model_projection(embeddings) * self.config.hidden_size**-0.5
        projected = self.per_layer_projection_norm(projected.view(rows.shape))
        inputs: Tensor = (projected + rows.to(projected.dtype)) * SQRT_HALF
        return inputs.movedim(-2, 0)

    def hidden(
        self,
        token_ids: Tensor,
        embeddings: Tensor,
        *,
        ffn_widths: Sequence[int] | None = None,
        keep: int | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Final hidden states, of whole sequences or of the continuation of one.

        Whole sequences may be padded on the right: everything is causal. The layers above the sharing point
        run over the last ``keep`` positions only; the results are those of the full pass.

        Args:
            token_ids: [B, T].
            embeddings: input embeddings with audio merged in, [B, T, hidden].
            ffn_widths: of a MatFormer sub-model, one per layer.
            keep: for how many of the last positions hidden states are wanted; None for all.
            cache: holds the positions before (B = 1) and takes up the T new ones; None to start at the
                beginning and keep nothing.

        Returns:
            [B, keep, hidden].
        """
        config = self.config
        count = token_ids.shape[1]
        length = count + (cache.length if cache is not None else 0)
        keep = count if keep is None else keep
        per_layer = self.per_layer_inputs(token_ids, embeddings)
        streams = self._expand(embeddings)
        views = self._views(count, length, embeddings.device)
        kept: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            if index == config.first_shared_layer and keep < count:
                if not keep:
                    break
                streams, per_layer = streams[:, :, -keep:], per_layer[:, :, -keep:]
                views = self._views(keep, length, embeddings.device)
            source = config.kv_source(index)
            streams, kv = layer(
                streams,
                per_layer[index],
                views[config.layer_types[index]],
                shared=kept[source] if source < index else None,
                width=ffn_widths[index] if ffn_widths is not None else None,
                cache=cache,
            )
            kept.append(kv)
        if cache is not None:
            cache.advance(count)
        return self._reduce(streams[:, :, streams.shape[2] - keep :])

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits of final hidden states, [..., hidden] -> [..., vocab]."""
        raw = F.linear(hidden, self.embed_tokens.weight)
        cap = self.config.final_logit_softcapping
        return raw if cap is None else torch.tanh(raw / cap) * cap

    def _views(self, queries: int, keys: int, device: torch.device) -> dict[str, View]:
        config = self.config
        return {
            kind: View.of_last(
                queries,
                keys,
                head_dim=config.head_dim,
                theta=config.rope_theta if kind == FULL else config.rope_local_base_freq,
                window=config.sliding_window if kind == SLIDING else None,
                device=device,
            )
            for kind in set(config.layer_types)
        }

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
