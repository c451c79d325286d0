"""Slices: what transformers reads from one is what the view inside the whole model computes."""

from __future__ import annotations

import json
import random
import secrets
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import slicing
from pipeline.checkpoint import INDEX, Checkpoint
from pipeline.config import TextConfig
from pipeline.errors import CheckpointError
from pipeline.gemma.matformer import PRESETS, Mix
from pipeline.layout import PER_LAYER_TABLE
from pipeline.model import Gemma3n
from pipeline.slicing import slice_model
from tests import reference

MEGABYTE = 2**20


@pytest.fixture(params=range(6))
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Draws that were never made before; six of them to each test that asks for it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    return random.Random(seed)


def random_mix(config: TextConfig, rng: random.Random) -> Mix:
    """A sub-model with as many layers left out as turn out to be possible."""
    skipped: tuple[int, ...] = ()
    for layer in rng.sample(range(config.num_hidden_layers), config.num_hidden_layers // 2):
        try:
            Mix(1, (*skipped, layer)).widths(config)
        except CheckpointError:
            continue
        skipped += (layer,)
    kept = [layer for layer in range(config.num_hidden_layers) if layer not in skipped]
    return Mix(tuple(rng.randint(64, config.intermediate_size[layer]) for layer in kept), skipped)


@pytest.fixture
def folder(rng: random.Random, tmp_path: Path) -> Path:
    """A checkpoint of a random configuration as transformers writes it, in one file or in many shards."""
    folder = tmp_path / "whole"
    shards = rng.choice(["60KB", "1GB"])
    reference.build(reference.random_config(rng), rng.getrandbits(31)).save_pretrained(
        folder, max_shard_size=shards
    )
    return folder


def test_transformers_computes_from_a_slice_what_the_view_does(folder, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(slicing, "_PIECE", rng.choice([1, 1000, 1 << 24]))
    whole = Gemma3n.from_pretrained(folder)
    mix = random_mix(whole.config.text, rng)
    print(mix)
    out = slice_model(folder, tmp_path / "slice", mix)
    ids = [rng.randrange(whole.config.text.vocab_size_per_layer_input) for _ in range(30)]
    view = whole.logits(ids, ffn_widths=mix.widths(whole.config.text))

    own = Gemma3n.from_pretrained(out)
    torch.testing.assert_close(own.logits(ids), view, atol=1e-5, rtol=0)
    torch.testing.assert_close(reference.logits(reference.load(out), ids), view, atol=1e-4, rtol=0)
    samples = reference.waveform(rng, 1.0)
    assert torch.equal(own.encode_audio(samples), whole.encode_audio(samples))


def test_the_slice_of_everything_is_the_same(folder, tmp_path):
    """Tensors that no part of the decoder is stay as they are, wherever they were."""
    config = Gemma3n.from_pretrained(folder).config.text
    out = slice_model(folder, tmp_path / "slice", Mix(config.intermediate_size))
    before, after = Checkpoint(folder), Checkpoint(out)

    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.read(name), after.read(name)) for name in before.tensors)
    assert (out / INDEX).is_file() == (folder / INDEX).is_file()


@pytest.fixture(scope="module")
def e4b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's layers and proportions of widths, with little in each, in bfloat16."""
    widths = {"hidden_size": 16, "hidden_size_per_layer_input": 4, "head_dim": 2, "laurel_rank": 2}
    config = reference.random_config(random.Random(1))
    for name, value in widths.items():
        setattr(config.text_config, name, value)
    raw = TextConfig.from_dict({"intermediate_size": 16_384})
    config.text_config.num_hidden_layers = 35
    config.text_config.num_kv_shared_layers = 15
    config.text_config.intermediate_size = list(raw.intermediate_size)
    config.text_config.layer_types = list(raw.layer_types)
    config.text_config.activation_sparsity_pattern = list(raw.activation_sparsity_pattern)
    folder = tmp_path_factory.mktemp("e4b")
    reference.build(config, 1).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20MB")
    # Published checkpoints carry keys and values of layers that share them, and say less in config.json.
    raw = json.loads((folder / "config.json").read_text())
    for name in ("layer_types", "activation_sparsity_pattern", "num_kv_shared_layers"):
        del raw["text_config"][name]
    raw["text_config"]["intermediate_size"] = 16_384
    (folder / "config.json").write_text(json.dumps(raw))
    shard = folder / "model-00001-of-00003.safetensors"
    dead = {
        f"model.language_model.layers.{layer}.self_attn.k_proj.weight": torch.full((2, 2), float(layer))
        for layer in range(20, 35)
    }
    save_file(load_file(shard) | dead, shard, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= dict.fromkeys(dead, shard.name)
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "tokenizer.json").write_text('{"a": "tokenizer"}')
    (folder / "README.md").write_text("E4B's card")
    return folder


def test_e2b_comes_out_of_e4b(e4b, tmp_path):
    out = slice_model(e4b, tmp_path / "e2b", PRESETS["e2b"])
    text = json.loads((out / "config.json").read_text())["text_config"]
    whole, own = Checkpoint(e4b), Checkpoint(out)
    kept = [layer for layer in range(35) if layer not in range(20, 25)]
    rows = whole.read(PER_LAYER_TABLE).unflatten(1, (35, 4))[:, kept].flatten(1)
    dead = "model.language_model.layers.{}.self_attn.k_proj.weight"

    assert text["num_hidden_layers"] == 30
    assert text["num_kv_shared_layers"] == 10
    assert text["intermediate_size"] == [8192] * 30
    assert text["activation_sparsity_pattern"] == [0.95] * 10 + [0.0] * 20
    assert [layer for layer, kind in enumerate(text["layer_types"]) if kind == "full_attention"] == [
        *range(4, 30, 5)
    ]
    assert torch.equal(own.read(PER_LAYER_TABLE), rows)
    assert {stored.dtype for stored in own.tensors.values()} == {"BF16", "F32"}
    assert torch.equal(own.read(dead.format(20)), torch.full((2, 2), 25.0))
    assert {path.name for path in out.iterdir() if path.suffix != ".safetensors"} == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        INDEX,
    }
    reference.load(out)


@pytest.mark.parametrize("name", PRESETS)
def test_every_published_sub_model_can_be_sliced(e4b, tmp_path, name):
    own = Gemma3n.from_pretrained(slice_model(e4b, tmp_path / name, PRESETS[name]))
    whole = Gemma3n.from_pretrained(e4b)
    widths = PRESETS[name].widths(whole.config.text)

    torch.testing.assert_close(
        own.logits([5, 6, 7]), whole.logits([5, 6, 7], ffn_widths=widths), atol=1e-4, rtol=0
    )


def anonymous_memory() -> int:
    """Bytes of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    pytest.skip("this system does not tell how much memory is no file's")


def test_memory_does_not_grow_with_the_checkpoint(e4b, tmp_path, monkeypatch):
    """The largest tensor here is fourteen times what may be in memory at once."""
    monkeypatch.setattr(slicing, "_PIECE", MEGABYTE)
    raw = json.loads((e4b / "config.json").read_text())
    rows = 100_000
    raw["text_config"]["vocab_size_per_layer_input"] = rows
    big = tmp_path / "big"
    big.mkdir()
    (big / "config.json").write_text(json.dumps(raw))
    checkpoint = Checkpoint(e4b)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    tensors[PER_LAYER_TABLE] = torch.ones(rows, 140, dtype=torch.bfloat16)
    save_file(tensors, big / "model.safetensors")
    del tensors
    before, seen = anonymous_memory(), []
    slice_model(big, tmp_path / "slice", PRESETS["e2b"], lambda _: seen.append(anonymous_memory()))

    assert len(seen) > 30
    assert max(seen) - before < 14 * MEGABYTE


def test_progress_ends_at_one(e4b, tmp_path):
    shares: list[float] = []
    slice_model(e4b, tmp_path / "slice", Mix(16), shares.append)

    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_folder_with_something_in_it_is_left_alone(e4b, tmp_path):
    (tmp_path / "slice").mkdir()
    (tmp_path / "slice" / "mine").touch()

    with pytest.raises(FileExistsError):
        slice_model(e4b, tmp_path / "slice", Mix(16))
    assert [path.name for path in (tmp_path / "slice").iterdir()] == ["mine"]
    slice_model(e4b, tmp_path / "new" / "slice", Mix(16))


def test_nothing_is_left_of_a_slice_that_fails(e4b, tmp_path):
    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slice_model(e4b, tmp_path / "slice", Mix(16), stop)
    assert list(tmp_path.iterdir()) == []
