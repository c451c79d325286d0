"""The Gemma 3n text decoder.

``model.language_model`` of the published checkpoints; formulas follow transformers'
``models/gemma3n/modeling_gemma3n.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import FULL, SLIDING, TextConfig
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.attention import Attention, View
from pipeline.gemma.cache import BLOCK, KVPool
from pipeline.gemma.layers import MLP, SQRT_HALF, AltUp, LaurelBlock, RMSNorm, match_magnitude
from pipeline.gemma.paged import Pages
from pipeline.gemma.ple import PerLayerEmbedding

Store: TypeAlias = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a layer's keys and values of new positions; returns those of all positions that these see."""

Look: TypeAlias = Callable[[int, Tensor], None]
"""Is shown what a full layer attends to, as :meth:`Attention.weights` has it."""


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
        store: Store | None = None,
        look: Look | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over whole sequences, or over the next positions of many.

        Args:
            streams: [streams, B, T, hidden].
            per_layer: this layer's additional input, [B, T, ple].
            view: what these positions see.
            shared: keys and values of the layer that this one shares them with.
            width: of the feed-forward; None for all of it.
            store: takes keys and values of the positions and returns those of all that they see; None if
                these are the same.
            look: is shown the layer's attention.

        Returns:
            The streams, and the keys and values attended to.
        """
        predictions, normed, laurel = self._before(streams)
        if shared is None:
            shared = self.self_attn.keys_values(normed, view)
            if store is not None:
                shared = store(self.index, *shared)
        if look is not None:
            look(self.index, self.self_attn.weights(normed, view, shared[0]))
        attended = self.self_attn(normed, view, *shared)
        return self._behind(predictions, laurel, attended, per_layer, width), shared

    def fuse(self) -> None:
        """Have what is element by element compiled into fewer kernels, for the weights' present device."""
        for name in ("_before", "_behind"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=True))
        self.self_attn.fuse()

    def _before(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted streams, the layer's normed input, and what LAuReL makes of it."""
        predictions = self.altup.predict(streams)
        normed = self.input_layernorm(predictions[self.active])
        return predictions, normed, self.laurel(normed)

    def _behind(
        self, predictions: Tensor, laurel: Tensor, attended: Tensor, per_layer: Tensor, width: int | None
    ) -> Tensor:
        """The streams, from what attention gave."""
        attended = self.post_attention_layernorm(attended)
        attended = (predictions[self.active] + attended + laurel) * SQRT_HALF
        fed = self.mlp(self.pre_feedforward_layernorm(attended), width)
        activated = attended + self.post_feedforward_layernorm(fed)
        corrected = self.altup.correct(predictions, activated)
        first = corrected[self.active]
        if self.scaled:
            first = self.altup.scale_output(first)
        gated = F.gelu(self.per_layer_input_gate(first), approximate="tanh") * per_layer
        update = self.post_per_layer_input_norm(self.per_layer_projection(gated))
        # Every stream but the first, whichever is active, receives the per-layer input.
        return torch.cat([corrected[:1], corrected[1:] + update])


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
        # Whether small passes read matrices as int8, which these have been rounded to.
        self.int8 = False
        # Layers whose keys and values others share.
        self._sources = {config.kv_source(layer) for layer in range(config.first_shared_layer, layers)}

    def fuse(self) -> None:
        """Have the layers compiled, once for all that are alike; their first passes take longer then."""
        # A version for each kind of layer, for one position and for many, for parts of a width and the whole.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.fuse()

    def embed(self, token_ids: Tensor) -> Tensor:
        """Scaled embeddings of text tokens, [...] -> [..., hidden]."""
        scaled: Tensor = self.embed_tokens(token_ids) * self.config.hidden_size**0.5
        return scaled

    def per_layer_inputs(self, token_ids: Tensor, embeddings: Tensor) -> Tensor:
        """What each layer receives beside its input, [B, T] and [B, T, hidden] -> [layers, B, T, ple]."""
        return self.merge_per_layer(self.embed_tokens_per_layer(token_ids, embeddings), embeddings)

    def merge_per_layer(self, rows: Tensor, embeddings: Tensor) -> Tensor:
        """The same from rows of the table, [B, T, layers, ple]."""
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
    ) -> Tensor:
        """Final hidden states of whole sequences.

        They may be padded on the right: everything is causal. The layers above the sharing point run over
        the last ``keep`` positions only; the results are those of the full pass.

        Args:
            token_ids: [B, T].
            embeddings: input embeddings with audio merged in, [B, T, hidden].
            ffn_widths: of a MatFormer sub-model, one per layer, 0 where it has no such layer.
            keep: for how many of the last positions hidden states are wanted; None for all.

        Returns:
            [B, keep, hidden].
        """
        count = token_ids.shape[1]
        keep = count if keep is None else keep
        per_layer = self.per_layer_inputs(token_ids, embeddings)
        views = self._views(count, embeddings, count)
        streams, kept = self._below(embeddings, per_layer, views, ffn_widths, None)
        if not keep:
            return embeddings[:, :0]
        if keep < count:
            streams, per_layer = streams[:, :, -keep:], per_layer[:, :, -keep:]
            views = self._views(count, embeddings, keep)
        return self._above(streams, per_layer, views, ffn_widths, kept)

    def next_hidden(
        self,
        rows: Tensor,
        embeddings: Tensor,
        pool: KVPool,
        ahead: Ahead,
        ffn_widths: Sequence[int] | None = None,
        *,
        look: Look | None = None,
    ) -> Tensor:
        """Final hidden states of the next positions of many sequences, which are written to their caches.

        All that is done here is done on the device, in shapes that its arguments' shapes decide.

        Args:
            rows: of the per-layer embedding table, [1, N, layers, ple].
            embeddings: input embeddings with audio merged in, [1, N, hidden].
            pool: holds the caches.
            ahead: where each of the N positions belongs, and which of them are wanted.
            ffn_widths: of a MatFormer sub-model, one per layer, 0 where it has no such layer.
            look: is shown the attention of all N positions in full layers that own keys and values, and of
                the K that are wanted in those that share them.

        Returns:
            [1, K, hidden] of the K positions that are wanted.
        """

        def store(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            lines = ahead.lines[self.config.layer_types[layer]]
            pool.write(layer, lines.write, keys[0].transpose(0, 1), values[0].transpose(0, 1))
            return pool.pages(layer) if ahead.tiles else pool.read(layer, lines.table)

        per_layer = self.merge_per_layer(rows, embeddings)
        views = self._views_ahead(ahead, embeddings.dtype)
        streams, kept = self._below(embeddings, per_layer, views, ffn_widths, store, look=look)
        wanted = ahead.wanted
        if wanted is None:
            return embeddings[:, :0]
        if wanted is not ahead:
            streams, per_layer = streams[:, :, wanted.of], per_layer[:, :, wanted.of]
            views = self._views_ahead(wanted, embeddings.dtype)
            for source in () if wanted.tiles else kept:
                kept[source] = pool.read(source, wanted.lines[self.config.layer_types[source]].table)
        return self._above(streams, per_layer, views, ffn_widths, kept, look=look)

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits of final hidden states, [..., hidden] -> [..., vocab]."""
        return self.cap(F.linear(hidden, self.embed_tokens.weight))

    def cap(self, raw: Tensor) -> Tensor:
        """Soft-cap logits, [...] -> the same."""
        cap = self.config.final_logit_softcapping
        return raw if cap is None else torch.tanh(raw / cap) * cap

    def expand(self, embeddings: Tensor) -> Tensor:
        """The streams that AltUp begins with, [..., hidden] -> [streams, ..., hidden]."""
        others = [match_magnitude(project(embeddings), embeddings) for project in self.altup_projections]
        return torch.stack([embeddings, *(other.to(embeddings.dtype) for other in others)])

    def reduce(self, streams: Tensor) -> Tensor:
        """The last layer's streams to final hidden states, [streams, ..., hidden] -> [..., hidden]."""
        others = [
            match_magnitude(project(stream), streams[0])
            for project, stream in zip(self.altup_unembed_projections, streams[1:], strict=True)
        ]
        normed: Tensor = self.norm(torch.stack([streams[0], *others]).mean(0))
        return normed

    def _below(
        self,
        embeddings: Tensor,
        per_layer: Tensor,
        views: dict[str, View],
        ffn_widths: Sequence[int] | None,
        store: Store | None,
        *,
        look: Look | None = None,
    ) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Run the layers that own keys and values; returns the streams, and those that others share."""
        streams = self.expand(embeddings)
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        for index in range(self.config.first_shared_layer):
            width = ffn_widths[index] if ffn_widths is not None else None
            if width == 0:
                continue
            streams, kv = self.layers[index](
                streams,
                per_layer[index],
                views[self.config.layer_types[index]],
                shared=None,
                width=width,
                store=store,
                look=look if self.config.layer_types[index] == FULL else None,
            )
            if index in self._sources:
                kept[index] = kv
        return streams, kept

    def _above(
        self,
        streams: Tensor,
        per_layer: Tensor,
        views: dict[str, View],
        ffn_widths: Sequence[int] | None,
        kept: dict[int, tuple[Tensor, Tensor]],
        *,
        look: Look | None = None,
    ) -> Tensor:
        """Run the layers that share keys and values, and reduce the streams to one."""
        for index in range(self.config.first_shared_layer, len(self.layers)):
            width = ffn_widths[index] if ffn_widths is not None else None
            if width == 0:
                continue
            streams, _ = self.layers[index](
                streams,
                per_layer[index],
                views[self.config.layer_types[index]],
                shared=kept[self.config.kv_source(index)],
                width=width,
                look=look if self.config.layer_types[index] == FULL else None,
            )
        return self.reduce(streams)

    def _views(self, length: int, like: Tensor, last: int) -> dict[str, View]:
        return {
            kind: View.of_whole(length, **self._geometry(kind), like=like, last=last)
            for kind in set(self.config.layer_types)
        }

    def _views_ahead(self, ahead: Ahead, dtype: torch.dtype) -> dict[str, View]:
        if ahead.tiles is not None:
            views = {}
            for kind, lines in ahead.lines.items():
                how = self._geometry(kind)
                pages = Pages(ahead.tiles, ahead.positions, lines.table, lines.first, how.pop("window"))
                views[kind] = View.of_pages(pages, **how, dtype=dtype)
            return views
        return {
            kind: View.of_next(
                ahead.positions,
                lines.first,
                lines.table.shape[1] * BLOCK,
                **self._geometry(kind),
                dtype=dtype,
                apart=ahead.apart,
                together=ahead.together,
            )
            for kind, lines in ahead.lines.items()
        }

    def _geometry(self, kind: str) -> dict[str, Any]:
        config = self.config
        return {
            "head_dim": config.head_dim,
            "theta": config.rope_theta if kind == FULL else config.rope_local_base_freq,
            "window": config.sliding_window if kind == SLIDING else None,
        }
