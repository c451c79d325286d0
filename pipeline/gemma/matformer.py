"""MatFormer: the sub-models inside a decoder, and which of them can share a KV cache.

The first units of every feed-forward are a feed-forward of their own (Devvrit et al. 2023, arXiv:2310.07707),
and layers can be left out. So one set of weights holds many models. Inside the engine each of them is told by
its widths: how many units of each layer's feed-forward it uses, 0 where it has no such layer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from pipeline.config import TextConfig
from pipeline.errors import CheckpointError

Widths: TypeAlias = tuple[int, ...]
"""Units in use of each layer's feed-forward; 0 leaves the layer out."""

_STEP = 2048

# Feed-forwards of layers 0-9, 10-19 and 20-34 in steps of 2048 units, "-" where a layer is left out, as
# published in google/gemma3n-slicing-configs; the names are their sizes in billions of parameters.
_PUBLISHED = {
    "e2b": "4444444444 4444444444 -----4444444444",
    "e1.96": "4444844444 4444444444 -----4444444444",
    "e2.54": "4444844444 4444444444 888884444444444",
    "e2.69": "4444844448 4444844448 888884444444444",
    "e2.98": "4444444444 4444488888 888884444488888",
    "e3.18": "4444844448 8888888888 888884444844448",
    "e3.39": "4444844448 8888888888 888888888844448",
    "e3.59": "4444888888 8888888888 888888888844448",
    "e3.79": "4444888888 8888888888 888888888888888",
    "e2.49-block": "4444444444 4444444444 888884444444444",
    "e2.73-block": "4444444444 4444488888 888884444444444",
    "e2.98-block": "4444444444 8888888888 888884444444444",
    "e3.24-block": "4444444444 8888888888 888888888844444",
    "e3.49-block": "4444488888 8888888888 888888888844444",
    "e3.79-block": "4444488888 8888888888 888888888888888",
}


@dataclass(frozen=True)
class Mix:
    """A sub-model in the words of a Mix-n-Match table.

    Attributes:
        ffn_widths: one for all layers that are kept, or one for each of them.
        skip_layers: indices of the layers that are left out.
    """

    ffn_widths: int | tuple[int, ...]
    skip_layers: tuple[int, ...] = ()

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a JSON object with the attributes' names; ``skip_layers`` may be missing.

        Raises:
            CheckpointError: the file cannot be read or has something else in it.
        """
        try:
            raw = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
        accepted = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(raw, dict) or "ffn_widths" not in raw or raw.keys() - accepted:
            raise CheckpointError(f"{path}: expected an object with ffn_widths and, if wanted, skip_layers")
        widths, skipped = raw["ffn_widths"], raw.get("skip_layers", [])
        if not (_is_count(widths) or _are_counts(widths)) or not _are_counts(skipped):
            raise CheckpointError(
                f"{path}: ffn_widths must be a whole number or a list of them, skip_layers a list of them"
            )
        return cls(widths if _is_count(widths) else tuple(widths), tuple(skipped))

    def widths(self, config: TextConfig) -> Widths:
        """The sub-model of a decoder.

        Raises:
            CheckpointError: the decoder has no such sub-model (it names what is accepted).
        """
        layers = config.num_hidden_layers
        odd = [layer for layer in self.skip_layers if not 0 <= layer < layers]
        if odd or len(set(self.skip_layers)) < len(self.skip_layers):
            raise CheckpointError(
                f"skip_layers must be different layers from 0 to {layers - 1}, got {list(self.skip_layers)}"
            )
        kept = [layer for layer in range(layers) if layer not in self.skip_layers]
        given = self.ffn_widths
        if isinstance(given, int):
            given = (given,) * len(kept)
        if len(given) != len(kept):
            raise CheckpointError(
                f"ffn_widths has {len(given)} entries; this model has {layers} layers, of which "
                f"{len(kept)} are kept: accepted are one for all and one for each of these"
            )
        if 0 in given:
            raise CheckpointError("ffn_widths must be at least 1; layers to leave out go into skip_layers")
        chosen = dict(zip(kept, given, strict=True))
        widths = tuple(chosen.get(layer, 0) for layer in range(layers))
        check_widths(config, widths)
        return widths


def check_widths(config: TextConfig, widths: Sequence[int]) -> None:
    """See that a decoder has a sub-model.

    Raises:
        CheckpointError: there is not one width for each layer, or one that the layer does not have; or a
            layer is left out whose keys and values a layer that is kept shares.
    """
    own = config.intermediate_size
    if len(widths) != len(own):
        raise CheckpointError(f"a sub-model has a width for each of {len(own)} layers, got {len(widths)}")
    for layer, (width, most) in enumerate(zip(widths, own, strict=True)):
        if not 0 <= width <= most:
            raise CheckpointError(
                f"the feed-forward of layer {layer} has {most} units, got a width of {width}"
            )
    kept = kept_layers(widths)
    if not kept:
        raise CheckpointError("at least one layer must be kept")
    needed = {config.kv_source(layer) for layer in kept} - set(kept)
    if needed:
        raise CheckpointError(
            f"layers {sorted(needed)} cannot be left out: layers that are kept share their keys and values"
        )


def kept_layers(widths: Sequence[int]) -> list[int]:
    """Indices of the layers that a sub-model has."""
    return [layer for layer, width in enumerate(widths) if width]


def sliced(config: TextConfig, widths: Sequence[int]) -> TextConfig:
    """The configuration of a sub-model as a model of its own, its layers numbered anew."""
    kept = kept_layers(widths)
    return dataclasses.replace(
        config,
        num_hidden_layers=len(kept),
        num_kv_shared_layers=sum(layer >= config.first_shared_layer for layer in kept),
        intermediate_size=tuple(widths[layer] for layer in kept),
        layer_types=tuple(config.layer_types[layer] for layer in kept),
        activation_sparsity_pattern=tuple(config.activation_sparsity_pattern[layer] for layer in kept),
    )


def kv_group(config: TextConfig, widths: Sequence[int] | None) -> Widths:
    """What decides the keys and values that a sub-model writes: its widths below the sharing point.

    Sub-models of one group write the same ones, so a sequence can go on in any of them. Each position's
    output is then that of the sub-model which computes it, as if that had computed all positions before.

    Args:
        config: of the whole decoder.
        widths: of the sub-model; None for the whole.
    """
    every = config.intermediate_size if widths is None else widths
    return tuple(every[: config.first_shared_layer])


def _read_published(table: str) -> Mix:
    layers = table.replace(" ", "")
    skipped = tuple(layer for layer, digit in enumerate(layers) if digit == "-")
    return Mix(tuple(int(digit) * _STEP for digit in layers if digit != "-"), skipped)


PRESETS = {name: _read_published(table) for name, table in _PUBLISHED.items()}
"""The published sub-models of Gemma 3n E4B."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(item) for item in value)
