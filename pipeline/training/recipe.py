"""The bundled model's shape and the settings of its training; and a tiny twin of both for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.gemma.prompt import PromptTemplate
from pipeline.training.batches import Bucket
from pipeline.training.engines import ENGINES
from pipeline.training.vocabulary import HARD_TOKENS

CONTEXT = "Said before: {context}"
INSTRUCTION = "Transcribe the following speech segment in {source}, then translate it into {target}:"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, but for the data and the seed.

    Args:
        languages: ISO 639-1 codes, English among them: the others are translated into it, and it into them.
        text_tokens: text tokens of the vocabulary.
        audio_width: hidden size of the encoder.
        audio_layers: conformer blocks.
        audio_heads: heads of the encoder's attention.
        channels: of the two convolutions.
        width: hidden size of the decoder.
        layer_types: of the decoder, ``f`` full and ``s`` sliding, one letter a layer.
        shared: layers at the end that own no KV.
        heads: query heads.
        kv_heads: key and value heads.
        ffn: width of the feed-forward; the half of it is trained as a model of its own.
        ple: width of a per-layer embedding.
        buckets: shapes of the batches.
        matrix_rate: learning rate of Muon.
        vector_rate: learning rate of AdamW.
        warmup: steps of linear warm-up.
        half_share: steps in which the half-width model learns.
        hearing_share: of the budget, in which speech teaches the encoder alone, by the spelling of what is
            said: a decoder learns nothing from an encoder that cannot hear, and costs half of the time.
        dropout: see :class:`pipeline.training.learner.Learner`.
        smoothing: of the labels, see there.
        unreadable: see :class:`pipeline.training.batches.Batcher`.
        told: share of the batches of speech that are told what was said before.
        engines: whose voices speak.
        coded: share of the sentences that go through Opus.
        chunks: chunks of speech to synthesise at most.
        first_chunks: chunks of speech to wait for before the first step.
    """

    languages: tuple[str, ...] = ("es", "en")
    text_tokens: int = 4096
    audio_width: int = 256
    audio_layers: int = 6
    audio_heads: int = 8
    channels: tuple[int, int] = (64, 32)
    width: int = 256
    layer_types: str = "ssfsfssf"
    shared: int = 3
    heads: int = 4
    kv_heads: int = 1
    ffn: int = 1024
    ple: int = 16
    buckets: tuple[Bucket, ...] = (
        Bucket(0.0, 640, 32, 0.18),
        Bucket(3.0, 360, 40, 0.25),
        Bucket(5.0, 220, 60, 0.25),
        Bucket(12.0, 90, 140, 0.25),
        Bucket(28.0, 40, 330, 0.07),
    )
    matrix_rate: float = 0.015
    vector_rate: float = 1.5e-3
    warmup: int = 300
    half_share: float = 0.35
    hearing_share: float = 0.08
    dropout: float = 0.1
    smoothing: float = 0.1
    unreadable: float = 0.12
    told: float = 0.0
    engines: tuple[str, ...] = ENGINES
    coded: float = 0.0
    chunks: int = 16_000
    first_chunks: int = 120


TINY = Recipe(
    text_tokens=600,
    audio_width=32,
    audio_layers=2,
    audio_heads=2,
    channels=(8, 4),
    width=32,
    layer_types="sfsf",
    shared=2,
    heads=2,
    ffn=64,
    ple=8,
    buckets=(Bucket(0.0, 8, 60, 0.3), Bucket(3.0, 6, 60, 0.5), Bucket(6.0, 3, 120, 0.2)),
    matrix_rate=0.02,
    vector_rate=2e-3,
    warmup=3,
    hearing_share=0.2,
    engines=("espeak-ng",),
    chunks=16,
    first_chunks=4,
)
"""The same recipe in a minute on a CPU, with the one engine that is installed nearly everywhere."""


def speaking(recipe: Recipe, languages: Sequence[str]) -> Recipe:
    """The recipe for other languages: with every one beyond two, the vocabulary grows by an eighth.

    A token is a row of the embedding and one of the per-layer embeddings, 768 bytes of the bundled model: its
    five languages come to 39.7 MB.
    """
    tokens = recipe.text_tokens + recipe.text_tokens // 8 * (len(languages) - len(recipe.languages))
    return replace(recipe, languages=tuple(languages), text_tokens=tokens)


def template(recipe: Recipe) -> PromptTemplate:
    """The prompt that the model is trained with."""
    return PromptTemplate(recipe.languages, INSTRUCTION, CONTEXT if recipe.told else "")


def resumed(recipe: Recipe) -> Recipe:
    """The settings for going on from a checkpoint: it can hear, and is past the highest learning rates."""
    return replace(
        recipe,
        matrix_rate=0.7 * recipe.matrix_rate,
        vector_rate=0.7 * recipe.vector_rate,
        warmup=60,
        hearing_share=0.0,
    )


def config(recipe: Recipe, special: Mapping[str, int]) -> dict[str, Any]:
    """``config.json`` of the model.

    Args:
        recipe: the sizes.
        special: ids of special tokens by name.
    """
    layers = ["full_attention" if letter == "f" else "sliding_attention" for letter in recipe.layer_types]
    vision, audio = recipe.text_tokens, recipe.text_tokens + HARD_TOKENS
    return {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "eos_token_id": [special["<eos>"], special["<end_of_turn>"]],
        "boi_token_id": special["<start_of_image>"],
        "eoi_token_id": special["<end_of_image>"],
        "image_token_id": special["<image_soft_token>"],
        "boa_token_id": special["<start_of_audio>"],
        "eoa_token_id": special["<end_of_audio>"],
        "audio_token_id": special["<audio_soft_token>"],
        "audio_soft_tokens_per_image": 188,
        "vision_soft_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3n_text",
            "vocab_size": audio + HARD_TOKENS,
            "vocab_size_per_layer_input": recipe.text_tokens,
            "hidden_size": recipe.width,
            "hidden_size_per_layer_input": recipe.ple,
            "intermediate_size": [recipe.ffn] * len(layers),
            "num_hidden_layers": len(layers),
            "num_kv_shared_layers": recipe.shared,
            "layer_types": layers,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.kv_heads,
            "head_dim": recipe.width // recipe.heads,
            "sliding_window": 256,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "rms_norm_eps": 1e-6,
            "final_logit_softcapping": 30.0,
            # The first layers of the published models keep 5 % of their gate units; a narrow one needs more.
            "activation_sparsity_pattern": [0.5, 0.5] + [0.0] * (len(layers) - 2),
            "altup_num_inputs": 2,
            "altup_active_idx": 0,
            "altup_coef_clip": 120.0,
            "altup_correct_scale": True,
            "laurel_rank": 16,
            "max_position_embeddings": 4096,
            "hidden_activation": "gelu_pytorch_tanh",
            "pad_token_id": special["<pad>"],
            "bos_token_id": special["<bos>"],
            "eos_token_id": special["<eos>"],
        },
        "audio_config": {
            "model_type": "gemma3n_audio",
            "vocab_size": HARD_TOKENS,
            "vocab_offset": audio,
            "hidden_size": recipe.audio_width,
            "input_feat_size": 128,
            "conf_num_hidden_layers": recipe.audio_layers,
            "conf_num_attention_heads": recipe.audio_heads,
            "conf_attention_chunk_size": 12,
            "conf_attention_context_left": 13,
            "conf_attention_context_right": 0,
            "conf_reduction_factor": 4,
            "sscp_conv_channel_size": list(recipe.channels),
        },
        "vision_config": {
            "model_type": "gemma3n_vision",
            "architecture": "mobilenetv5_300m_enc",
            "hidden_size": 64,
            "vocab_size": HARD_TOKENS,
            "vocab_offset": vision,
            "label_names": ["none"],
        },
    }
