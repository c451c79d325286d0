"""transformers' Gemma 3n at random small sizes: what Surtitle's is compared with.

Only the vision tower is not the real one: it needs timm, and nothing here looks at pictures. One unused
matrix stands in for it, so that checkpoints have tensors of a vision tower to ignore.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from transformers import Gemma3nAudioFeatureExtractor, Gemma3nConfig, Gemma3nForConditionalGeneration
from transformers.models.gemma3n import modeling_gemma3n

from pipeline.model import Gemma3n

FULL, SLIDING = "full_attention", "sliding_attention"


class VisionStub(nn.Module):
    """In the vision tower's place."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 2, bias=False)


@contextmanager
def without_vision() -> Iterator[None]:
    """Within it, transformers makes and loads Gemma 3n with a :class:`VisionStub`."""
    from_config = modeling_gemma3n.AutoModel.from_config

    def patched(config: Any, **kwargs: Any) -> nn.Module:
        return VisionStub() if config.model_type == "gemma3n_vision" else from_config(config, **kwargs)

    with mock.patch.object(modeling_gemma3n.AutoModel, "from_config", patched):
        yield


def random_text_config(rng: random.Random) -> dict[str, Any]:
    """A text_config in which everything varies that the format lets vary."""
    layers = rng.randint(2, 7)
    kinds = [rng.choice([FULL, SLIDING]) for _ in range(layers)]
    # Sharing needs a layer of each kind below the first layer that shares.
    seen = {kind: kinds.index(kind) for kind in set(kinds)}
    shared = rng.randint(0, layers - 1 - max(seen.values()))
    heads = rng.choice([1, 2, 4])
    text_tokens = rng.randint(40, 120)
    return {
        "vocab_size": text_tokens + 16,
        "vocab_size_per_layer_input": text_tokens,
        "hidden_size": rng.choice([32, 48, 64]),
        "hidden_size_per_layer_input": rng.choice([12, 16, 20]),
        "intermediate_size": [16 * rng.randint(8, 16) for _ in range(layers)],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([n for n in (1, 2, 4) if heads % n == 0]),
        "head_dim": rng.choice([4, 8, 16]),
        "num_kv_shared_layers": shared,
        "layer_types": kinds,
        "sliding_window": rng.randint(2, 12),
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": rng.choice([1e4, 1e6])},
            SLIDING: {"rope_type": "default", "rope_theta": rng.choice([1e3, 1e4])},
        },
        "rms_norm_eps": rng.choice([1e-6, 1e-5]),
        "final_logit_softcapping": rng.choice([5.0, 30.0]),
        "activation_sparsity_pattern": [rng.choice([0.0, 0.5, 0.9]) for _ in range(layers)],
        "altup_num_inputs": rng.randint(2, 4),
        "altup_active_idx": 0,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": rng.choice([True, False]),
        "laurel_rank": rng.choice([8, 12, 16]),
        "max_position_embeddings": 4096,
    }


def random_audio_config(rng: random.Random, vocab_offset: int) -> dict[str, Any]:
    """An audio_config of the published shape of computation at varying sizes."""
    heads = rng.choice([1, 2, 4])
    return {
        "vocab_size": 8,
        "vocab_offset": vocab_offset,
        # Norms over fewer channels than 24 meet vectors near zero, of which they would magnify the rounding.
        "hidden_size": heads * rng.choice([size for size in (8, 12, 16, 24, 32) if heads * size >= 24]),
        "conf_num_attention_heads": heads,
        "conf_num_hidden_layers": rng.randint(1, 3),
        "conf_conv_kernel_size": rng.choice([3, 5]),
        "conf_attention_chunk_size": rng.choice([6, 12]),
        "conf_attention_context_left": rng.choice([7, 13]),
        "conf_reduction_factor": rng.choice([2, 4]),
        "sscp_conv_channel_size": [rng.choice([16, 24, 32]), rng.choice([12, 16])],
    }


def random_config(rng: random.Random) -> Gemma3nConfig:
    """A random small configuration: text vocabulary, then 8 ids of vision, then 8 of audio."""
    text = random_text_config(rng)
    vision = text["vocab_size_per_layer_input"]
    return Gemma3nConfig(
        text_config=text,
        audio_config=random_audio_config(rng, vision + 8),
        vision_config={"hidden_size": 12, "vocab_size": 8, "vocab_offset": vision},
        boi_token_id=vision - 1,
        eoi_token_id=vision,
        image_token_id=vision + 1,
        boa_token_id=vision - 2,
        eoa_token_id=vision + 8,
        audio_token_id=vision + 9,
        audio_soft_tokens_per_image=64,
        eos_token_id=[1, 3],
    )


def build(config: Gemma3nConfig, seed: int) -> Gemma3nForConditionalGeneration:
    """A model with random weights, all of them: also those that usually start at one or zero."""
    torch.manual_seed(seed)
    with without_vision():
        model = Gemma3nForConditionalGeneration(config).eval()
    scramble(model)
    return model


@torch.no_grad()
def scramble(module: nn.Module) -> None:
    """Give ``module`` random weights that keep magnitudes as they are."""
    for name, parameter in module.named_parameters():
        if name.endswith("q_norm.weight"):
            # Attention has no scale of its own. Saturated, it would only magnify rounding.
            scale = len(parameter) ** -0.5
            parameter.normal_(scale, 0.3 * scale)
        elif parameter.ndim == 1:
            parameter.normal_(1.0, 0.3)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5)


def load(folder: Path) -> Gemma3nForConditionalGeneration:
    """A written checkpoint, in float32."""
    with without_vision():
        return Gemma3nForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def waveform(rng: random.Random, seconds: float) -> np.ndarray:
    """Noise whose level and colour change: no part of the encoder sees the same frame for long."""
    noise = np.random.default_rng(rng.getrandbits(32))
    samples = noise.standard_normal(int(16_000 * seconds)).astype(np.float32)
    level = np.repeat(noise.uniform(0.02, 0.3, len(samples) // 1600 + 1), 1600)[: len(samples)]
    smooth = np.convolve(samples, np.ones(4, np.float32) / 4, mode="same")
    return np.where(level > 0.15, samples, smooth).astype(np.float32) * level.astype(np.float32)


@torch.no_grad()
def soft_tokens(model: Gemma3nForConditionalGeneration, samples: np.ndarray) -> torch.Tensor:
    """Useful audio soft tokens, [n, text_hidden], by transformers' own feature extractor and encoder."""
    features, mask = _features(samples)
    outputs = model.model.get_audio_features(features, ~mask, return_dict=True)
    return outputs.pooler_output[0][~outputs.audio_mel_mask[0]]


@torch.no_grad()
def logits(
    model: Gemma3nForConditionalGeneration, token_ids: list[int], samples: np.ndarray | None = None
) -> torch.Tensor:
    """Logits [t, vocab].

    Args:
        model: the reference.
        token_ids: with ``audio_soft_tokens_per_image`` ids of the audio soft token if there is audio.
        samples: the audio.
    """
    inputs: dict[str, Any] = {"input_ids": torch.tensor([token_ids])}
    if samples is not None:
        inputs["input_features"], inputs["input_features_mask"] = _features(samples)
    return model(**inputs, use_cache=False).logits[0]


def parity(seed: int, folder: Path) -> dict[str, float]:
    """Largest absolute errors of Surtitle's model against transformers', by kind of output.

    Args:
        seed: of configuration, weights and inputs; odd ones write the checkpoint in many shards.
        folder: an empty one, for the checkpoint that transformers writes and Surtitle reads.

    Returns:
        ``text``: of the logits of text; ``soft_tokens``: of audio's soft tokens; ``mixed``: of the logits of
        text around audio.
    """
    rng = random.Random(seed)
    config = random_config(rng)
    reference = build(config, seed)
    reference.save_pretrained(folder, max_shard_size="60KB" if seed % 2 else "1GB")
    model = Gemma3n.from_pretrained(folder)
    text_tokens = config.text_config.vocab_size_per_layer_input
    text = [rng.randrange(text_tokens) for _ in range(rng.randint(1, 48))]
    samples = waveform(rng, rng.uniform(0.1, 4.0))
    expected = soft_tokens(reference, samples)
    audio = model.encode_audio(samples)
    # Ours may have one more, of nothing but the zeros with which the waveform is padded.
    if not len(expected) <= len(audio) <= len(expected) + 1:
        raise AssertionError(f"{len(audio)} soft tokens, expected {len(expected)}")
    useful = audio[: len(expected)]
    # The reference fills up with the embedding of the last audio id; the same id does that here.
    fill = config.audio_soft_tokens_per_image - len(useful)
    before, after = [*text, config.boa_token_id], [config.eoa_token_id, *text]
    placed = [config.audio_token_id] * len(useful) + [config.text_config.vocab_size - 1] * fill
    padded = [config.audio_token_id] * config.audio_soft_tokens_per_image
    mixed = logits(reference, [*before, *padded, *after], samples)
    return {
        "text": _largest(logits(reference, text) - model.logits(text)),
        "soft_tokens": _largest(expected - useful),
        "mixed": _largest(mixed - model.logits([*before, *placed, *after], useful)),
    }


def _largest(errors: torch.Tensor) -> float:
    return float(errors.abs().max())


def _features(samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    batch = Gemma3nAudioFeatureExtractor()([samples], return_tensors="pt")
    return batch["input_features"], batch["input_features_mask"]
