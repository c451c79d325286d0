from __future__ import annotations

import dataclasses
import random
import secrets
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import AudioConfig, ModelConfig, TextConfig
from pipeline.errors import CheckpointError
from pipeline.layout import describe, empty_parts, slice_config
from pipeline.model import Gemma3n
from tests import reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random configuration, as transformers writes it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.build(reference.random_config(random.Random(seed)), seed).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Gemma3n:
    return Gemma3n.from_pretrained(folder)


def test_description_counts_every_tensor_once(folder, model):
    description = describe(folder)
    parts = {part.name: part for part in description.parts}
    decoder = model.language_model

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    tables = decoder.embed_tokens.weight.numel() + decoder.embed_tokens_per_layer.weight.numel()
    assert parts["audio"].parameters == count(model.audio_tower) + count(model.embed_audio)
    assert parts["text core"].parameters == count(decoder) - tables
    assert parts["embeddings"].parameters == decoder.embed_tokens.weight.numel()
    assert parts["per-layer embeddings"].parameters == decoder.embed_tokens_per_layer.weight.numel()
    assert parts["per-layer embeddings"].place == "cpu"
    assert parts["vision"].parameters > 0
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert 0 < stored - sum(part.nbytes for part in parts.values()) < 60_000  # headers


def test_description_measures_the_half_width_model(folder, model):
    full, half = describe(folder).submodels
    narrow = Gemma3n.from_pretrained(folder, ffn_widths=half.ffn_widths)

    def core(loaded: Gemma3n) -> int:
        decoder = loaded.language_model
        tables = decoder.embed_tokens.weight.numel() + decoder.embed_tokens_per_layer.weight.numel()
        return sum(parameter.numel() for parameter in decoder.parameters()) - tables

    assert (full.parameters, half.parameters) == (core(model), core(narrow))
    assert half.nbytes == 4 * half.parameters
    assert (full.name, half.name) == ("full", "half")


def test_a_repeated_output_projection_counts_as_unused(folder, tmp_path):
    """It is in the files but never loaded."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    before, after = ({part.name: part for part in describe(path).parts} for path in (folder, tmp_path))

    assert before["unused"].parameters == 0
    assert after["unused"].parameters == tensors["lm_head.weight"].numel()
    assert after["unused"].place == "not loaded"
    assert dataclasses.replace(after["unused"], parameters=0, nbytes=0) == before["unused"]


def test_one_width_stands_for_all_layers(model):
    layers = model.config.text.num_hidden_layers

    assert slice_config(model.config, 10).text.intermediate_size == (10,) * layers


def test_widths_that_the_checkpoint_does_not_have_are_refused(model):
    whole = list(model.config.text.intermediate_size)
    for widths in ([*whole[:-1], whole[-1] + 1], [*whole[:-1], 0], whole[:-1], 10**6):
        with pytest.raises(CheckpointError, match="ffn_widths must be"):
            slice_config(model.config, widths)


@pytest.mark.parametrize(
    ("text", "core", "per_layer"),
    [
        (
            {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "intermediate_size": 8192},
            1_884_521_568,
            2_013_265_920,
        ),
        ({}, 3_949_030_128, 2_348_810_240),
    ],
    ids=["E2B", "E4B"],
)
def test_published_sizes(text, core, per_layer):
    """Parameters of google/gemma-3n-E2B and -E4B, without vision and without what no layer uses."""
    config = ModelConfig(TextConfig.from_dict(text), AudioConfig.from_dict({}))
    parts = {
        prefix: sum(parameter.numel() for parameter in part.parameters())
        for prefix, part in empty_parts(config).items()
    }

    assert parts["model.language_model"] == core + per_layer + 262_400 * 2048
    assert parts["model.audio_tower"] == 681_348_640
    assert parts["model.embed_audio"] == 128 * 1536 + 2 * 1536 + 1536 * 2048
