from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import ple_file
from pipeline.errors import CheckpointError
from pipeline.layout import PER_LAYER_TABLE
from pipeline.model import Gemma3n
from tests import reference

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random configuration, as transformers writes it."""
    folder = tmp_path_factory.mktemp("written")
    reference.build(reference.random_config(random.Random(5)), 5).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def own_table(folder: Path) -> Tensor:
    return load_file(folder / "model.safetensors")[PER_LAYER_TABLE]


def layers_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["text_config"]["num_hidden_layers"])


def change_table(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[PER_LAYER_TABLE] = change(tensors[PER_LAYER_TABLE].clone())
    save_file(tensors, folder / "model.safetensors")


def dequantised(values: Tensor, scales: Tensor) -> Tensor:
    """[rows, layers, width]."""
    blocks = values.unflatten(1, (scales.shape[1], -1)).int()
    if values.dtype == torch.uint8:
        blocks = torch.cat([blocks % 16, blocks // 16], -1) - 8
    return blocks * scales.unsqueeze(-1)


@pytest.mark.parametrize("bits", [8, 4])
def test_no_value_is_further_off_than_half_a_step(bits):
    """And the largest of a block is met."""
    rows = torch.randn((50, 3 * 16), generator=torch.Generator().manual_seed(0))
    values, scales = ple_file.quantise(rows, 3, bits)
    blocks = rows.view(50, 3, 16)
    errors = (dequantised(values, scales) - blocks).abs()

    assert values.shape == (50, 48 * bits // 8)
    assert (errors <= 0.5001 * scales.unsqueeze(-1)).all()
    assert errors.gather(-1, blocks.abs().argmax(-1, keepdim=True)).max() < 1e-6


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_of_nothing_and_of_next_to_nothing(bits):
    """Zeros stay zeros, and what is too small to be divided becomes zero."""
    rows = torch.tensor([[0.0, 0.0, 1e-45, -1e-45]])
    values, scales = ple_file.quantise(rows, 2, bits)

    torch.testing.assert_close(dequantised(values, scales).flatten(1), rows)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_a_converted_file_is_the_quantised_table(folder, monkeypatch, bits, chunk):
    """However it is cut; safetensors itself can read it."""
    monkeypatch.setattr(ple_file, "_CHUNK", chunk)
    shares: list[float] = []
    path = ple_file.convert(folder, bits=bits, progress=shares.append)
    table, layers = own_table(folder), layers_of(folder)
    values, scales = ple_file.quantise(table, layers, bits)
    stored = load_file(path)

    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert ple_file.find(folder) == [path]
    assert sorted(stored) == ["scales", "values"]
    assert torch.equal(stored["values"], values)
    assert torch.equal(stored["scales"], scales)
    assert all(map(torch.equal, ple_file.read(path, table, layers), (values, scales)))


def test_converted_files_are_found_by_their_names(folder, tmp_path):
    """In the model's folder, that is; elsewhere only whoever put them there knows."""
    assert ple_file.find(folder) == []
    assert ple_file.convert(folder, tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert ple_file.find(folder) == []
    paths = [ple_file.convert(folder, bits=bits) for bits in (4, 8)]
    assert ple_file.find(folder) == paths[::-1]


def test_a_converted_file_changes_nothing_unless_it_is_named(folder):
    expected = Gemma3n.from_pretrained(folder).logits([1, 2, 3])
    path = ple_file.convert(folder, bits=4)

    assert torch.equal(Gemma3n.from_pretrained(folder).logits([1, 2, 3]), expected)
    assert not torch.equal(Gemma3n.from_pretrained(folder, ple=path).logits([1, 2, 3]), expected)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.003), (4, 0.06)])
def test_logits_come_close(folder, checkpoint, tmp_path, bits, most):
    """Root mean square of the error, relative to the logits' spread; bfloat16 arithmetic costs 0.02."""
    rng = random.Random(0)
    for model in (folder, checkpoint):
        path = ple_file.convert(model, tmp_path / "table", bits)
        plain, quantised = Gemma3n.from_pretrained(model), Gemma3n.from_pretrained(model, ple=path)
        ids = [rng.randrange(plain.config.text.vocab_size_per_layer_input) for _ in range(100)]
        expected = plain.logits(ids)
        error = (quantised.logits(ids) - expected).square().mean().sqrt() / expected.std()

        assert 0 < error < most


def test_a_table_that_is_not_finite_leaves_no_file(folder):
    """What was there before stays."""
    before = ple_file.convert(folder).read_bytes()

    def spoil(table: Tensor) -> Tensor:
        table[-1, -1] = torch.nan
        return table

    change_table(folder, spoil)
    with pytest.raises(CheckpointError, match="is not finite"):
        ple_file.convert(folder)
    with pytest.raises(CheckpointError, match="is not finite"):
        ple_file.convert(folder, bits=4)
    assert ple_file.find(folder) == [ple_file.default_path(folder, 8)]
    assert ple_file.default_path(folder, 8).read_bytes() == before
    assert not list(folder.glob("*.part"))


def test_a_place_that_cannot_be_written(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        ple_file.convert(folder, tmp_path / "no" / "folder" / "table")


def test_a_file_of_another_checkpoint_is_refused(folder):
    """Also where shapes are the same: some rows are compared."""
    path = ple_file.convert(folder)
    change_table(folder, torch.neg)
    with pytest.raises(CheckpointError, match="not made from this checkpoint"):
        Gemma3n.from_pretrained(folder, ple=path)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: {**stored, "values": stored["values"][:-1].clone()},
        lambda stored: {**stored, "values": stored["values"].to(torch.int16)},
        lambda stored: {**stored, "scales": stored["scales"].double()},
        lambda stored: {**stored, "scales": stored["scales"][:, :-1].clone()},
    ],
)
def test_a_file_of_another_shape_is_refused(folder, change):
    path = ple_file.convert(folder)
    save_file(change(load_file(path)), path)
    with pytest.raises(CheckpointError, match=f"{path}: not made from this checkpoint"):
        Gemma3n.from_pretrained(folder, ple=path)


def test_a_file_that_is_no_table_is_refused(folder, tmp_path):
    (tmp_path / "text").write_text("not a table")
    truncated = tmp_path / "truncated"
    truncated.write_bytes(ple_file.convert(folder).read_bytes()[:-1])
    for path in (tmp_path / "nowhere", tmp_path / "text", truncated, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match=f"{path}: not a file that `surtitle model convert-ple`"):
            Gemma3n.from_pretrained(folder, ple=path)


def test_widths_that_4_bits_do_not_fit(folder, monkeypatch):
    """Two values share a byte; the check of the checkpoint is not what is tested here."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size_per_layer_input"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(ple_file, "check", lambda *_: None)
    with pytest.raises(CheckpointError, match=r"odd width \(3\) cannot have 4 bits"):
        ple_file.convert(folder, bits=4)


def sparse(path: Path, **tensors: tuple[str, int, list[int]]) -> None:
    """A safetensors file of zeros that takes no room on the disk: names, dtypes, their bytes and shapes."""
    header, end = {}, 0
    for name, (dtype, size, shape) in tensors.items():
        begin, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)


@pytest.fixture
def large(folder: Path) -> Iterator[Path]:
    """A model whose table has 2 million rows: in bfloat16 in a shard of its own, and converted."""
    raw = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    rows, row = 2_000_000, tensors.pop(PER_LAYER_TABLE).shape[1]
    raw["text_config"]["vocab_size_per_layer_input"] = rows
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, folder / "rest.safetensors")
    sparse(folder / "table.safetensors", **{PER_LAYER_TABLE: ("BF16", 2, [rows, row])})
    scales = ("F32", 4, [rows, raw["text_config"]["num_hidden_layers"]])
    sparse(ple_file.default_path(folder, 8), scales=scales, values=("I8", 1, [rows, row]))
    shards = {**dict.fromkeys(tensors, "rest.safetensors"), PER_LAYER_TABLE: "table.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    yield folder
    shutil.rmtree(folder)


def mapped(path: Path, kind: str) -> list[str]:
    """What the system tells of ``kind`` about each stretch of a file that this process has mapped."""
    told, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and first == f"{kind}:":
            told.append(rest.strip())
    return told


def in_memory(path: Path, kind: str) -> int:
    """Bytes of ``kind`` that this process has of a mapped file."""
    return sum(1024 * int(size.removesuffix("kB")) for size in mapped(path, kind))


def resident() -> int:
    """Bytes of this process in main memory."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Rss:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps to look into")
@pytest.mark.parametrize("converted", [False, True], ids=["bfloat16", "int8"])
def test_only_rows_that_are_looked_up_come_into_memory(large, written, converted):
    """Neither loading nor looking up reads the table; its pages are the file's, shared by all processes.

    A row's page may bring along 15 neighbours that some process has read: 64 KB, twice where scales lie
    elsewhere. Nothing is read ahead.
    """
    # Whatever is compiled and allocated only once is not what is measured.
    Gemma3n.from_pretrained(written, ple=ple_file.convert(written, large / "other")).logits([1])
    Gemma3n.from_pretrained(large).logits([1])
    path = ple_file.default_path(large, 8) if converted else large / "table.safetensors"
    before = resident()
    model = Gemma3n.from_pretrained(large, ple=path if converted else None)
    table = model.language_model.embed_tokens_per_layer
    loaded = in_memory(path, "Rss")
    ids = torch.randint(len(table.weight), (1, 100), generator=torch.Generator().manual_seed(0))
    rows = table(ids, torch.empty(0))

    assert path.stat().st_size > 150 * MEGABYTE
    assert not rows.any()
    assert loaded < 3 * MEGABYTE
    assert 100 * 4096 <= in_memory(path, "Rss") - loaded < 13 * MEGABYTE
    assert in_memory(path, "Anonymous") == 0
    assert any("rr" in flags.split() for flags in mapped(path, "VmFlags"))
    assert resident() - before < 20 * MEGABYTE
