"""A trained :class:`Learner` as a checkpoint folder in the published Hugging Face layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from pipeline.config import ModelConfig
from pipeline.gemma.prompt import PromptTemplate
from pipeline.training import vocabulary
from pipeline.training.learner import Learner

_PREFIXES = {
    "audio_tower": "model.audio_tower",
    "embed_audio": "model.embed_audio",
    "language_model": "model.language_model",
}


def tensors(learner: Learner, raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights by their published names, bfloat16.

    The vision embedder is part of the layout and is written untrained; the vision tower is left out.
    """
    state = {
        f"{_PREFIXES[name.split('.')[0]]}.{name.split('.', 1)[1]}": value
        for name, value in learner.state_dict().items()
        if name.split(".")[0] in _PREFIXES
    }
    vision, width = raw["vision_config"], raw["text_config"]["hidden_size"]
    generator = torch.Generator().manual_seed(0)
    state |= {
        "model.embed_vision.embedding.weight": torch.randn(
            vision["vocab_size"], vision["hidden_size"], generator=generator
        ),
        "model.embed_vision.hard_embedding_norm.weight": torch.ones(vision["hidden_size"]),
        "model.embed_vision.soft_embedding_norm.weight": torch.ones(vision["hidden_size"]),
        "model.embed_vision.embedding_projection.weight": torch.randn(
            width, vision["hidden_size"], generator=generator
        )
        * vision["hidden_size"] ** -0.5,
    }
    return {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in state.items()}


def export(
    learner: Learner, raw: dict[str, Any], tokenizer: Tokenizer, template: PromptTemplate, folder: Path
) -> None:
    """Write ``config.json``, ``model.safetensors``, tokenizer and processor files and ``surtitle.json``.

    Args:
        learner: the model.
        raw: its ``config.json``.
        tokenizer: its tokenizer.
        template: the prompt that it was trained with.
        folder: where; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ModelConfig.from_dict(raw)
    names = {name: tokenizer.token_to_id(name) for name in ("<pad>", "<eos>", "<bos>", "<end_of_turn>")}
    files = {
        "config.json": raw,
        "generation_config.json": {
            "bos_token_id": names["<bos>"],
            "eos_token_id": [names["<eos>"], names["<end_of_turn>"]],
            "pad_token_id": names["<pad>"],
            "do_sample": False,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
            "feature_size": 128,
            "sampling_rate": 16_000,
        },
        "surtitle.json": {name: value for name, value in dataclasses.asdict(template).items() if value},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    save_file(tensors(learner, raw), folder / "model.safetensors", metadata={"format": "pt"})


def resume(learner: Learner, folder: Path, tokenizer: Tokenizer) -> None:
    """Start ``learner`` from an exported checkpoint; the head of the auxiliary loss, not exported, stays new.

    A token that the checkpoint's vocabulary lacks starts as the mean of those that it has for its text.

    Args:
        learner: to be changed in place.
        folder: the checkpoint's.
        tokenizer: the learner's.

    Raises:
        RuntimeError: the checkpoint is of another shape.
    """
    exported = load_file(folder / "model.safetensors")
    rows = vocabulary.carried_over(Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer)
    for table in ("embed_tokens", "embed_tokens_per_layer"):
        name = f"{_PREFIXES['language_model']}.{table}.weight"
        had = exported[name].float()
        count = len(getattr(learner.language_model, table).weight)
        exported[name] = torch.stack([had[ids].mean(0) for ids in rows[:count]])
    for part, prefix in _PREFIXES.items():
        own = {
            name.removeprefix(f"{prefix}."): value.float()
            for name, value in exported.items()
            if name.startswith(f"{prefix}.")
        }
        getattr(learner, part).load_state_dict(own)
