"""Which tensors a checkpoint of a configuration has, what they are for and how big they are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn

from pipeline.checkpoint import Checkpoint, locate
from pipeline.config import ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.errors import CheckpointError
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.layers import MLP
from pipeline.int8 import round_weights

PER_LAYER_TABLE = "model.language_model.embed_tokens_per_layer.weight"

VISION = (r"model\.vision_tower\.", r"model\.embed_vision\.")

# The output projection is tied to the input embeddings; some checkpoints repeat it.
REPEATED = r"lm_head\.weight$"

Stage: TypeAlias = Literal["encoder", "decoder"]
"""One half of what is done with a stream; each has processes of its own."""

# The embedder is of both: soft tokens go through it, and the embeddings of ids of the audio vocabulary.
_USERS: dict[str, frozenset[Stage]] = {
    "model.audio_tower": frozenset(("encoder",)),
    "model.embed_audio": frozenset(("encoder", "decoder")),
    "model.language_model": frozenset(("decoder",)),
}


def empty_parts(config: ModelConfig) -> dict[str, nn.Module]:
    """The parts of a model by the prefix of their tensors' names, with shapes but without weights."""
    with torch.device("meta"):
        return {
            "model.audio_tower": AudioEncoder(config.audio),
            "model.embed_audio": MultimodalEmbedder(config.audio, config.text.hidden_size),
            "model.language_model": Decoder(config.text),
        }


def check(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """See that a checkpoint has the tensors of its configuration and no others.

    Raises:
        CheckpointError: names what is missing, superfluous and misshapen.
    """
    expected = {
        f"{prefix}.{name}": tensor.shape
        for prefix, part in empty_parts(config).items()
        for name, tensor in part.state_dict().items()
    }
    checkpoint.check(expected, (*VISION, REPEATED, *_dead(config)))


def read_parts(
    checkpoint: Checkpoint,
    config: ModelConfig,
    device: str | torch.device,
    dtype: torch.dtype,
    stages: Collection[Stage],
) -> tuple[AudioEncoder, MultimodalEmbedder, Decoder]:
    """The parts of a model with their weights, for inference.

    Args:
        checkpoint: that has been checked.
        config: of it, or of a sub-model.
        device: where to put weights, but for the per-layer embedding table, which stays on the CPU.
        dtype: what to convert them to, but for that table, which stays as it is; int8 is float32, rounded.
        stages: that they are for; parts that none of these uses stay without weights.

    Raises:
        ValueError: int8 is asked for on another device than the CPU.
        CheckpointError: a file is corrupt behind its header.
    """
    int8 = dtype == torch.int8
    if int8 and torch.device(device).type != "cpu":
        raise ValueError(f"weights in int8 are for the CPU, not for {device}")
    parts = empty_parts(config)
    for prefix, part in parts.items():
        if not _USERS[prefix].intersection(stages):
            continue
        tensors = {}
        for name, empty in part.state_dict().items():
            full = f"{prefix}.{name}"
            table = full == PER_LAYER_TABLE
            tensors[name] = checkpoint.read(
                full,
                shape=empty.shape,
                dtype=None if table else torch.float32 if int8 else dtype,
                device="cpu" if table else device,
            )
        part.load_state_dict(tensors, assign=True)
        part.requires_grad_(False).eval()
    audio_tower, embed_audio, language_model = parts.values()
    assert isinstance(audio_tower, AudioEncoder)
    assert isinstance(embed_audio, MultimodalEmbedder)
    assert isinstance(language_model, Decoder)
    if "encoder" in stages:
        audio_tower.to(device)  # buffers that no checkpoint brings
    if "decoder" in stages:
        for module in language_model.modules():
            if isinstance(module, MLP):
                module.lay_out()
    if int8 and "encoder" in stages:
        round_weights(audio_tower)
    if int8 and "decoder" in stages:
        round_weights(language_model)
    return audio_tower, embed_audio, language_model


def slice_config(config: ModelConfig, ffn_widths: int | Sequence[int]) -> ModelConfig:
    """The configuration of a MatFormer sub-model (Devvrit et al. 2023, arXiv:2310.07707).

    Args:
        config: of the whole model.
        ffn_widths: one for all layers or one per layer.

    Raises:
        CheckpointError: a width is not between 1 and the layer's own, or their number is not that of layers.
    """
    own = config.text.intermediate_size
    widths = (ffn_widths,) * len(own) if isinstance(ffn_widths, int) else tuple(ffn_widths)
    if len(widths) != len(own) or not all(
        1 <= width <= most for width, most in zip(widths, own, strict=True)
    ):
        raise CheckpointError(
            f"ffn_widths must be {len(own)} widths of at most {list(own)}, got {list(widths)}"
        )
    return dataclasses.replace(config, text=dataclasses.replace(config.text, intermediate_size=widths))


@dataclass(frozen=True)
class Part:
    """One part of a checkpoint.

    Attributes:
        name: what it is.
        place: where its weights are when the model runs: ``accelerator``, ``cpu`` or ``not loaded``.
        parameters: their number.
        nbytes: their size on disk, which is that in memory if the model runs in the checkpoint's dtype.
    """

    name: str
    place: str
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class SubModel:
    """One of the sizes of which a checkpoint can be used.

    Attributes:
        name: ``full`` or ``half``.
        ffn_widths: per layer; what :meth:`pipeline.model.Gemma3n.from_pretrained` takes.
        parameters: of its text core, which is the decoder without its embedding tables.
        nbytes: size of these on disk.
    """

    name: str
    ffn_widths: tuple[int, ...]
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Description:
    """What is in a checkpoint.

    Attributes:
        folder: where it is.
        config: its sizes.
        parts: all of its tensors, each in one part.
        submodels: the sizes of which it can be used.
    """

    folder: Path
    config: ModelConfig
    parts: tuple[Part, ...]
    submodels: tuple[SubModel, ...]


def describe(model: str | Path) -> Description:
    """Look into a checkpoint without loading it.

    Args:
        model: a folder or a Hugging Face id.

    Raises:
        CheckpointError: as in :meth:`pipeline.model.Gemma3n.from_pretrained`.
    """
    folder = locate(model)
    config = ModelConfig.from_pretrained(folder)
    checkpoint = Checkpoint(folder)
    check(checkpoint, config)
    dead = _dead(config)
    patterns = (
        ("per-layer embeddings", "cpu", re.escape(PER_LAYER_TABLE)),
        ("embeddings", "accelerator", r"model\.language_model\.embed_tokens\."),
        ("unused", "not loaded", "|".join((REPEATED, *dead))),
        ("text core", "accelerator", r"model\.language_model\."),
        ("audio", "accelerator", r"model\.(audio_tower|embed_audio)\."),
        ("vision", "not loaded", "|".join(VISION)),
    )
    members: dict[str, list[str]] = {name: [] for name, _, _ in patterns}
    for tensor in checkpoint.tensors:
        members[next(name for name, _, pattern in patterns if re.match(pattern, tensor))].append(tensor)
    parts = {
        name: Part(
            name,
            place,
            sum(checkpoint.tensors[tensor].parameters for tensor in members[name]),
            sum(checkpoint.tensors[tensor].nbytes for tensor in members[name]),
        )
        for name, place, _ in patterns
    }
    core, whole = parts["text core"], config.text.intermediate_size
    half = tuple(width // 2 for width in whole)
    cut_parameters = cut_bytes = 0
    for layer, (width, kept) in enumerate(zip(whole, half, strict=True)):
        for matrix in ("gate_proj", "up_proj", "down_proj"):
            stored = checkpoint.tensors[f"model.language_model.layers.{layer}.mlp.{matrix}.weight"]
            cut_parameters += stored.parameters // width * (width - kept)
            cut_bytes += stored.nbytes // width * (width - kept)
    return Description(
        folder,
        config,
        tuple(parts.values()),
        (
            SubModel("full", whole, core.parameters, core.nbytes),
            SubModel("half", half, core.parameters - cut_parameters, core.nbytes - cut_bytes),
        ),
    )


def _dead(config: ModelConfig) -> list[str]:
    # Published checkpoints carry keys and values of layers that never use them.
    return [
        rf"model\.language_model\.layers\.{layer}\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\."
        for layer in range(config.text.first_shared_layer, config.text.num_hidden_layers)
    ]
