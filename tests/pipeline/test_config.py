"""Configuration: what config.json says, in both spellings, and what is refused."""

from __future__ import annotations

import json
import random
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import (
    FULL,
    SLIDING,
    AudioConfig,
    AudioFormat,
    GateConfig,
    ModelConfig,
    TextConfig,
)
from pipeline.errors import AudioError, CheckpointError
from tests import reference


@pytest.fixture
def raw() -> dict[str, Any]:
    """``config.json`` as transformers writes it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    written: dict[str, Any] = json.loads(reference.random_config(random.Random(seed)).to_json_string())
    return written


def test_fields_are_those_that_transformers_wrote(raw: dict[str, Any]):
    config = ModelConfig.from_dict(raw)

    for ours, theirs in ((config.text, raw["text_config"]), (config.audio, raw["audio_config"])):
        for name, value in vars(ours).items():
            if name in theirs:
                expected = theirs[name]
                assert value == (tuple(map(_frozen, expected)) if isinstance(expected, list) else expected)
    assert config.audio_token_id == raw["audio_token_id"]
    assert config.eos_token_ids == tuple(raw["eos_token_id"])


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_rope_bases_are_read_in_the_newer_and_the_older_spelling(raw: dict[str, Any]):
    rope = raw["text_config"].pop("rope_parameters")
    older = {"rope_theta": rope[FULL]["rope_theta"], "rope_local_base_freq": rope[SLIDING]["rope_theta"]}

    newer = TextConfig.from_dict({**raw["text_config"], "rope_parameters": rope})
    assert TextConfig.from_dict({**raw["text_config"], **older}) == newer
    assert (newer.rope_theta, newer.rope_local_base_freq) == tuple(older.values())


def test_lists_are_derived_where_config_json_leaves_them_out():
    config = TextConfig.from_dict(
        {"num_hidden_layers": 15, "num_kv_shared_layers": 5, "intermediate_size": 64}
    )
    assert config.intermediate_size == (64,) * 15
    assert [i for i, kind in enumerate(config.layer_types) if kind == FULL] == [4, 9, 14]
    assert config.activation_sparsity_pattern == (0.95,) * 10 + (0.0,) * 5


def test_shared_layers_read_the_last_layer_of_their_kind_below_the_sharing_point():
    config = TextConfig.from_dict(
        {
            "num_hidden_layers": 6,
            "num_kv_shared_layers": 2,
            "layer_types": [FULL, SLIDING, FULL, SLIDING, FULL, SLIDING],
        }
    )
    assert [config.kv_source(layer) for layer in range(6)] == [0, 1, 2, 3, 2, 3]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer_types": ["global"] * 4}, "global"),
        ({"layer_types": [FULL] * 3}, "layer_types has 3 entries for 4 layers"),
        ({"intermediate_size": [8, 8]}, "intermediate_size has 2 entries"),
        ({"layer_types": [FULL, FULL, FULL, SLIDING], "num_kv_shared_layers": 1}, "sliding_attention"),
    ],
)
def test_text_config_that_contradicts_itself_is_refused(change: dict[str, Any], named: str):
    with pytest.raises(CheckpointError, match=named):
        TextConfig.from_dict({"num_hidden_layers": 4, "num_kv_shared_layers": 0, **change})


def test_encoder_that_looks_ahead_is_refused():
    with pytest.raises(CheckpointError, match="conf_attention_context_right must be 0"):
        AudioConfig.from_dict({"conf_attention_context_right": 2})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no config.json"),
        ("{", "cannot be read as JSON"),
        ('{"model_type": "llama"}', "'llama'"),
        ('{"model_type": "gemma3n", "text_config": {}}', "audio_config"),
    ],
)
def test_folder_without_a_gemma_3n_config_is_refused(tmp_path: Path, content: str | None, named: str):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=named):
        ModelConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "mp3"}, "'mp3'; accepted are pcm_s16le, pcm_f32le, mulaw, alaw, opus, flac"),
        ({"sample_rate": 7_999}, "sample_rate must be a whole number from 8000 to 192000"),
        ({"sample_rate": 16_000.0}, "sample_rate"),
        ({"channels": True}, "channels"),
        ({"channels": 9}, "channels must be a whole number from 1 to 8, got 9"),
    ],
)
def test_audio_format_outside_what_is_accepted_is_refused(change: dict[str, Any], named: str):
    with pytest.raises(AudioError, match=named):
        AudioFormat(**change)


@pytest.mark.parametrize(
    ("encoding", "size"), [("pcm_s16le", 4), ("pcm_f32le", 8), ("mulaw", 2), ("alaw", 2), ("opus", 1)]
)
def test_bytes_per_frame_count_all_channels(encoding: str, size: int):
    assert AudioFormat(encoding, channels=2).bytes_per_frame == size


@pytest.mark.parametrize(
    "change",
    [
        {"aggressiveness": 4},
        {"hangover": 0.0},
        {"snr_db": 2.0},
        {"onset": float("nan")},
    ],
)
def test_gate_values_outside_their_range_are_refused(change: dict[str, float]):
    (name,) = change
    with pytest.raises(ValueError, match=name):
        replace(GateConfig(), **change)
