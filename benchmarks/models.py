"""Models for benchmarks: Surtitle's and transformers' on the same weights, in the same memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

import pipeline
from pipeline.config import AudioConfig, ModelConfig, TextConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.ple import PerLayerTable
from pipeline.model import Gemma3n

NANO = Path(pipeline.__file__).parent / "nano"

PUBLISHED: dict[str, dict[str, Any]] = {
    "e2b": {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "intermediate_size": 8192},
    "e4b": {"num_hidden_layers": 35, "num_kv_shared_layers": 15, "intermediate_size": 16_384},
}
"""In what the two published sizes differ; all else is the configuration's default."""


def published(name: str, device: torch.device) -> tuple[Gemma3n, Gemma3nForCausalLM]:
    """A model of published size with random weights in bfloat16, its per-layer embeddings on the CPU.

    Args:
        name: ``e2b`` or ``e4b``.
        device: where to compute.

    Returns:
        Ours and transformers', which has these embeddings on the device too.
    """
    raw = dict(PUBLISHED[name])
    text = TextConfig.from_dict(raw)
    raw |= {
        "intermediate_size": list(text.intermediate_size),
        "layer_types": list(text.layer_types),
        "activation_sparsity_pattern": list(text.activation_sparsity_pattern),
    }
    with torch.device(device):
        reference = Gemma3nForCausalLM._from_config(Gemma3nTextConfig(**raw), dtype=torch.bfloat16).eval()
        audio_tower = AudioEncoder(AudioConfig()).to(torch.bfloat16)
        embed_audio = MultimodalEmbedder(AudioConfig(), text.hidden_size).to(torch.bfloat16)
    _scale(reference)
    decoder = _twin(text, reference)
    config = ModelConfig(text, AudioConfig())
    for part in (audio_tower, embed_audio):
        part.requires_grad_(False).eval()
    # Buffers that no checkpoint brings are made on the CPU.
    return Gemma3n(Path(), config, audio_tower.to(device), embed_audio, decoder), reference


def bundled() -> tuple[Gemma3n, Gemma3nForCausalLM]:
    """The bundled model in float32 on the CPU, and transformers' of its decoder."""
    model = Gemma3n.from_pretrained(NANO)
    raw = json.loads((NANO / "config.json").read_text(encoding="utf-8"))["text_config"]
    reference = Gemma3nForCausalLM._from_config(Gemma3nTextConfig(**raw), dtype=torch.float32).eval()
    weights = {f"model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
    weights["model.embed_tokens_per_layer.weight"] = weights["model.embed_tokens_per_layer.weight"].float()
    missing, superfluous = reference.load_state_dict(weights, strict=False)
    # The output projection is tied; older versions have keys and values in layers that share them.
    wrong = [name for name in missing if not name.startswith("lm_head") and ".self_attn." not in name]
    if wrong or superfluous:
        raise RuntimeError(f"transformers has other tensors: {wrong}, {superfluous}")
    reference.tie_weights()
    return model, reference


@torch.no_grad()
def _scale(reference: Gemma3nForCausalLM) -> None:
    """Keep attention, which has no scale of its own, from saturating on random weights."""
    for name, parameter in reference.named_parameters():
        if name.endswith("q_norm.weight"):
            parameter.fill_(len(parameter) ** -0.5)


def _twin(config: TextConfig, reference: Gemma3nForCausalLM) -> Decoder:
    """Our decoder on the reference's weights."""
    with torch.device("meta"):
        decoder = Decoder(config)
    theirs = reference.model.state_dict()
    ours: dict[str, Tensor] = {name: theirs[name] for name in decoder.state_dict()}
    decoder.load_state_dict(ours, assign=True)
    table = ours["embed_tokens_per_layer.weight"].to("cpu")
    decoder.embed_tokens_per_layer = PerLayerTable(config, table)
    return decoder.requires_grad_(False).eval()
