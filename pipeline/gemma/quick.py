"""Small passes on the CPU: the next few positions of sequences, a layer at a time in one piece.

Decode steps, checks of a draft and the soft tokens of a second of audio are such. What comes out is that of
:meth:`pipeline.gemma.decoder.Decoder.next_hidden`, whose operators for so few positions take less time to
compute than to start (:mod:`kernels.step`, docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.rows import Matrix, multiply
from kernels.step import Layer, LayerShape, Places, layer_step
from pipeline.config import FULL, SLIDING
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.decoder import Decoder, DecoderLayer
from pipeline.small import array_of, is_small, matrix_of

MOST_POSITIONS = 32
"""Most positions in a pass; with more the advantage is small (``python -m benchmarks.steps``)."""


class QuickPasses:
    """Passes of one decoder in float32 on the CPU.

    Args:
        decoder: its weights must not move.
        choices: how many ids, from 0 on, may be chosen.
        ffn_widths: of the MatFormer sub-model, one per layer, 0 where it has no such layer; None for the
            whole model.
    """

    def __init__(self, decoder: Decoder, choices: int, ffn_widths: tuple[int, ...] | None = None) -> None:
        self.decoder = decoder
        self.choices = choices
        widths = ffn_widths or decoder.config.intermediate_size
        layers = [
            (index, _layer(decoder, layer, widths[index]))
            for index, layer in enumerate(decoder.layers)
            if isinstance(layer, DecoderLayer) and widths[index]
        ]
        self._below = [(index, layer) for index, layer in layers if index < decoder.config.first_shared_layer]
        self._above = layers[len(self._below) :]
        self._head = matrix_of(decoder.embed_tokens.weight, int8=decoder.int8)

    def logits(
        self,
        caches: Sequence[KVCache],
        counts: Sequence[int],
        keeps: Sequence[int],
        rows: Tensor,
        embeddings: Tensor,
    ) -> Tensor:
        """Append positions to sequences; returns logits behind the K positions that are wanted, [K, choices].

        Args:
            caches: of one pool, with the positions reserved; the caller advances them.
            counts: how many positions come next in each, at least 1.
            keeps: behind how many of the last of these logits are wanted.
            rows: of the per-layer embedding table, [1, N, layers, ple].
            embeddings: input embeddings with audio merged in, [1, N, hidden].
        """
        hidden = self.hidden(caches, counts, keeps, rows, embeddings)
        raw = torch.from_numpy(multiply(hidden, self._head, self.choices))
        return self.decoder.cap(raw)

    def hidden(
        self,
        caches: Sequence[KVCache],
        counts: Sequence[int],
        keeps: Sequence[int],
        rows: Tensor,
        embeddings: Tensor,
    ) -> NDArray[np.float32]:
        """The same up to the final hidden states, [K, hidden] of the K positions that are wanted."""
        decoder, pool = self.decoder, caches[0].pool
        per_layer = decoder.merge_per_layer(rows, embeddings)[:, 0].contiguous().numpy()
        places = {kind: _places(caches, counts, kind) for kind in pool.kinds}
        streams = decoder.expand(embeddings)[:, 0].contiguous().numpy()
        streams = self._run(self._below, streams, per_layer, pool, places)
        if not any(keeps):
            return np.empty((0, embeddings.shape[-1]), np.float32)
        if list(keeps) != list(counts):
            ends = np.cumsum(counts)
            wanted = np.concatenate(
                [np.arange(end - keep, end) for end, keep in zip(ends, keeps, strict=True)]
            )
            streams, per_layer = streams.take(wanted, axis=1), per_layer.take(wanted, axis=1)
            places = {kind: Places(*(array[wanted] for array in all_)) for kind, all_ in places.items()}
        streams = self._run(self._above, streams, per_layer, pool, places)
        hidden: NDArray[np.float32] = decoder.reduce(torch.from_numpy(streams)).numpy()
        return hidden

    def _run(
        self,
        layers: Sequence[tuple[int, Layer]],
        streams: NDArray[np.float32],
        per_layer: NDArray[np.float32],
        pool: KVPool,
        places: dict[str, Places],
    ) -> NDArray[np.float32]:
        config = self.decoder.config
        for index, layer in layers:
            kv = _keys_values(pool, config.kv_source(index))
            streams = layer_step(streams, per_layer[index], kv, places[config.layer_types[index]], layer)
        return streams


def suits(decoder: Decoder, positions: int) -> bool:
    """Whether a pass is faster this way."""
    return is_small(decoder.embed_tokens.weight, decoder.config.hidden_size, positions, MOST_POSITIONS)


def _places(caches: Sequence[KVCache], counts: Sequence[int], kind: str) -> Places:
    """Where the next positions of each sequence belong in layers of a kind."""
    each = list(zip(caches, counts, strict=True))
    seen = [cache.blocks(kind, count) for cache, count in each]
    table = np.zeros((len(caches), max(len(blocks) for _, blocks in seen)), np.int64)
    for line, (_, blocks) in zip(table, seen, strict=True):
        line[: len(blocks)] = blocks
    return Places(
        positions=np.concatenate([np.arange(cache.length, cache.length + count) for cache, count in each]),
        write=np.concatenate([cache.rows(kind, count) for cache, count in each]),
        table=table.repeat(counts, axis=0),
        first=np.array([first for first, _ in seen]).repeat(counts),
    )


def _keys_values(pool: KVPool, layer: int) -> NDArray[np.float32]:
    blocks = pool.kinds[pool.config.layer_types[layer]]
    array: NDArray[np.float32] = blocks.buffer[blocks.index[layer]].numpy()
    return array


def _shape(decoder: Decoder, layer: DecoderLayer, width: int) -> LayerShape:
    config, mlp = decoder.config, layer.mlp
    sliding = config.layer_types[layer.index] == SLIDING
    return LayerShape(
        active=layer.active,
        width=width,
        by_unit=mlp.laid_out,
        sparse=mlp.threshold is not None,
        z=mlp.threshold or 0.0,
        window=config.sliding_window if sliding else config.max_position_embeddings,
        eps=config.rms_norm_eps,
    )


def _layer(decoder: Decoder, layer: DecoderLayer, width: int) -> Layer:
    config, attention, altup, laurel = decoder.config, layer.self_attn, layer.altup, layer.laurel
    hidden = config.hidden_size
    theta = config.rope_theta if config.layer_types[layer.index] == FULL else config.rope_local_base_freq
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    owns = attention.owns_kv
    down = layer.mlp.down_proj.weight

    def norm(module: nn.Module) -> NDArray[np.float32]:
        assert isinstance(module.weight, Tensor)
        return array_of(module.weight)

    def matrix(weight: Tensor) -> Matrix:
        return matrix_of(weight, int8=decoder.int8)

    none = matrix(torch.empty(0, hidden))
    return Layer(
        input_norm=norm(layer.input_layernorm),
        attention_norm=norm(layer.post_attention_layernorm),
        feed_forward_norm=norm(layer.pre_feedforward_layernorm),
        fed_norm=norm(layer.post_feedforward_layernorm),
        update_norm=norm(layer.post_per_layer_input_norm),
        router_norm=norm(altup.router_norm),
        laurel_norm=norm(laurel.post_laurel_norm),
        output_scale=array_of(altup.correct_output_scale) if layer.scaled else np.ones(hidden, np.float32),
        router=matrix(altup.modality_router.weight),
        prediction=matrix(altup.prediction_coefs.weight),
        correction=matrix(altup.correction_coefs.weight),
        laurel_left=matrix(laurel.linear_left.weight),
        laurel_right=matrix(laurel.linear_right.weight),
        query=matrix(attention.q_proj.weight),
        key=matrix(attention.k_proj.weight) if owns else none,
        value=matrix(attention.v_proj.weight) if owns else none,
        output=matrix(attention.o_proj.weight),
        query_norm=norm(attention.q_norm),
        key_norm=norm(attention.k_norm) if owns else np.empty(0, np.float32),
        gate=matrix(layer.mlp.gate_proj.weight),
        up=matrix(layer.mlp.up_proj.weight),
        down=matrix(down.t() if layer.mlp.laid_out else down),
        per_layer_gate=matrix(layer.per_layer_input_gate.weight),
        per_layer_projection=matrix(layer.per_layer_projection.weight),
        divisors=(theta**exponents).numpy(),
        shape=_shape(decoder, layer, width),
    )
