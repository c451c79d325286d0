from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Gemma3nAudioConfig, Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

from pipeline.config import AudioConfig
from pipeline.encoder.embedder import MultimodalEmbedder


@torch.no_grad()
def test_embeddings_are_those_of_transformers(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], rng: random.Random
) -> None:
    width = 8 * rng.randint(1, 5)
    reference = Gemma3nMultimodalEmbedder(Gemma3nAudioConfig(**options), Gemma3nTextConfig(hidden_size=width))
    scramble(reference)
    embedder = MultimodalEmbedder(AudioConfig.from_dict(options), width)
    embedder.load_state_dict(reference.state_dict(), strict=True)
    encodings = torch.randn(2, 9, options["hidden_size"])
    ids = torch.randint(options["vocab_size"], (2, 9)) + options["vocab_offset"]

    torch.testing.assert_close(embedder(encodings), reference(inputs_embeds=encodings), atol=1e-4, rtol=0)
    torch.testing.assert_close(embedder.hard(ids), reference(input_ids=ids), atol=1e-4, rtol=0)


@torch.no_grad()
def test_soft_embeddings_have_unit_rms() -> None:
    embedder = MultimodalEmbedder(AudioConfig(hidden_size=32), 48)

    rms = embedder(torch.randn(5, 32) * 100).square().mean(-1).sqrt()

    torch.testing.assert_close(rms, torch.ones(5))
