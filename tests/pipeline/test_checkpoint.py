from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import NAMED_AT_MOST, Checkpoint, locate, shorten
from pipeline.errors import CheckpointError
from pipeline.model import Gemma3n
from tests import reference

NORM = "model.language_model.norm.weight"
MLP = "model.language_model.layers.0.mlp.{}_proj.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A checkpoint in one file, as transformers writes it."""
    folder = tmp_path_factory.mktemp("written")
    configs = (reference.random_config(random.Random(seed)) for seed in itertools.count())
    config = next(config for config in configs if config.text_config.num_kv_shared_layers)
    reference.build(config, 1).save_pretrained(folder)
    return folder


@pytest.fixture
def tensors(written) -> dict[str, torch.Tensor]:
    return load_file(written / "model.safetensors")


@pytest.fixture
def folder(tmp_path, written) -> Path:
    """A folder with the configuration alone."""
    (tmp_path / "config.json").write_bytes((written / "config.json").read_bytes())
    return tmp_path


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_names_missing_superfluous_and_misshapen_tensors_at_once(folder, tensors):
    del tensors[NORM]
    tensors["model.language_model.norm.bias"] = torch.zeros(2)
    gate = tensors[MLP.format("gate")]
    tensors[MLP.format("gate")] = gate[:-1].clone()

    with pytest.raises(CheckpointError) as raised:
        Gemma3n.from_pretrained(save(folder, tensors))
    message = str(raised.value)
    assert f"1 missing: {NORM}" in message
    assert "1 superfluous: model.language_model.norm.bias" in message
    rows, columns = gate.shape
    assert (
        f"1 misshapen: {MLP.format('gate')} ([{rows - 1}, {columns}] instead of [{rows}, {columns}])"
        in message
    )


def test_shortens_a_long_list(folder, tensors):
    """A file of something else entirely must not fill the screen."""
    for name in [name for name in tensors if ".language_model." in name]:
        del tensors[name]

    with pytest.raises(CheckpointError, match=r"\d+ missing: .* and \d+ more$") as raised:
        Gemma3n.from_pretrained(save(folder, tensors))
    assert str(raised.value).count("model.language_model") == NAMED_AT_MOST


def test_shorten_names_all_of_a_short_list():
    assert shorten(["a", "b"]) == "a, b"
    assert shorten(list("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"


def test_what_no_part_uses_is_ignored(folder, tensors):
    """Vision, a repeated output projection, and keys and values of layers that share them."""
    raw = json.loads((folder / "config.json").read_text())["text_config"]
    last = raw["num_hidden_layers"] - 1
    before = Gemma3n.from_pretrained(save(folder, tensors)).logits([1, 2, 3])
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    tensors["model.vision_tower.anything.weight"] = torch.zeros(3)
    for name in ("k_proj", "v_proj", "k_norm"):
        tensors[f"model.language_model.layers.{last}.self_attn.{name}.weight"] = torch.zeros(2, 2)

    assert torch.equal(Gemma3n.from_pretrained(save(folder, tensors)).logits([1, 2, 3]), before)


def test_keys_of_layers_that_own_theirs_are_needed(folder, tensors):
    del tensors["model.language_model.layers.0.self_attn.k_proj.weight"]

    with pytest.raises(CheckpointError, match=r"1 missing: .*layers\.0\.self_attn\.k_proj"):
        Gemma3n.from_pretrained(save(folder, tensors))


@pytest.mark.parametrize("cut", [0, 4, 1000, -1])
def test_a_truncated_file_is_named(folder, written, cut):
    data = (written / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:cut])

    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        Gemma3n.from_pretrained(folder)


def test_a_file_of_something_else_is_named(folder):
    (folder / "model.safetensors").write_bytes(random.Random(3).randbytes(5000))

    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        Gemma3n.from_pretrained(folder)


def test_integers_are_refused(folder, tensors):
    tensors[NORM] = tensors[NORM].to(torch.int32)

    with pytest.raises(CheckpointError, match=rf"{NORM} \(I32\).*accepted are F64, F32, F16, BF16"):
        Gemma3n.from_pretrained(save(folder, tensors))


def test_a_folder_without_weights(folder):
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor .*index\.json"):
        Gemma3n.from_pretrained(folder)


def test_a_missing_shard_is_named(folder, tensors):
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    shards = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    shards["other"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    with pytest.raises(CheckpointError, match=r"missing: model-00002-of-00002\.safetensors"):
        Gemma3n.from_pretrained(folder)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_malformed_index_is_named(folder, index):
    (folder / "model.safetensors.index.json").write_text(index)

    with pytest.raises(CheckpointError, match=r"index\.json: expected an object with a weight_map"):
        Gemma3n.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"model_type": "llama"}', "got model_type 'llama'"),
        (
            '{"model_type": "gemma3n", "text_config": {"num_hidden_layers": "x"}, "audio_config": {"a": 1}}',
            "not of its type",
        ),
    ],
)
def test_a_malformed_configuration_is_named(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(CheckpointError, match=message):
        Gemma3n.from_pretrained(tmp_path)


def test_a_folder_without_configuration(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json; a model is a folder in Hugging Face layout"):
        Gemma3n.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        locate(tmp_path / "nowhere")


def test_a_hub_id_that_cannot_be_reached(monkeypatch, tmp_path):
    """One sentence says so, not a stack of network errors."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CheckpointError, match="surtitle/never-was: no such folder, and it cannot be had"):
        locate("surtitle/never-was")


def test_a_hub_id_that_names_a_folder_is_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "nano").mkdir(parents=True)

    assert locate("models/nano") == Path("models/nano")


def test_reads_the_leading_part_in_another_dtype(written, tensors):
    checkpoint = Checkpoint(written)
    whole = tensors[MLP.format("down")]
    part = checkpoint.read(MLP.format("down"), shape=(whole.shape[0], 5), dtype=torch.bfloat16)

    assert torch.equal(part, whole[:, :5].to(torch.bfloat16))
    assert part.is_contiguous()
