"""MatFormer sub-models as checkpoints of their own.

Tensors go from file to file in pieces: however big the checkpoint, memory is needed for one piece.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import DTYPES, INDEX, SINGLE, Checkpoint, Stored, locate
from pipeline.config import ModelConfig, TextConfig
from pipeline.gemma.matformer import Mix, Widths, kept_layers, sliced
from pipeline.layout import PER_LAYER_TABLE, check

_PIECE = 1 << 24  # bytes that are in memory at once

_PER_LAYER_PROJECTION = "model.language_model.per_layer_model_projection.weight"
_LAYER = re.compile(r"(model\.language_model\.layers\.)(\d+)(\..+)")

_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
"""What else belongs to a model: tokenizer, templates, settings, terms. Its card is not that of the slice."""

Range = tuple[int, int]


@dataclass(frozen=True)
class _Cut:
    """A tensor of the slice: where it comes from, and which part of that it is.

    Attributes:
        name: in the slice.
        source: in the whole checkpoint.
        stored: the tensor there.
        rows: ranges of its first axis, one behind the other; None for all.
        columns: the same of its second axis.
    """

    name: str
    source: str
    stored: Stored
    rows: tuple[Range, ...] | None = None
    columns: tuple[Range, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.stored.shape)
        for axis, ranges in enumerate((self.rows, self.columns)):
            if ranges is not None:
                shape[axis] = sum(end - begin for begin, end in ranges)
        return tuple(shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.stored.dtype]

    def pieces(self, whole: Tensor) -> Iterator[Tensor]:
        """The part's bytes in order, a bounded number at once."""
        whole = whole if whole.ndim else whole[None]
        step = max(1, _PIECE * len(whole) // max(1, whole.nbytes))
        for begin, end in self.rows or ((0, len(whole)),):
            for start in range(begin, end, step):
                piece = whole[start : min(end, start + step)]
                if self.columns is not None:
                    piece = torch.cat([piece[:, first:last] for first, last in self.columns], 1)
                yield piece.contiguous().flatten().view(torch.uint8)


def slice_model(
    model: str | Path, out: Path, mix: Mix, progress: Callable[[float], None] = lambda share: None
) -> Path:
    """Write a sub-model as a checkpoint of its own.

    Kept layers are numbered anew, each with its own part of the per-layer embeddings; nothing but widths and
    layers changes. Files are as many as before, and in the same number formats.

    Args:
        model: a folder or a Hugging Face id.
        out: folder to write, which must not exist or be empty. It appears when it is complete.
        mix: the sub-model.
        progress: told which share of the bytes is written, now and then.

    Returns:
        The folder.

    Raises:
        CheckpointError: as in :meth:`pipeline.model.Gemma3n.from_pretrained`; or the model has no such
            sub-model.
        OSError: the folder cannot be written, or is there with something in it.
    """
    folder = locate(model)
    config = ModelConfig.from_pretrained(folder)
    checkpoint = Checkpoint(folder)
    check(checkpoint, config)
    widths = mix.widths(config.text)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(errno.EEXIST, "there is something already", str(out))
    part = out.with_name(f"{out.name}.part")
    part.mkdir(parents=True)
    try:
        _write_weights(part, checkpoint, _cuts(checkpoint, config.text, widths), progress)
        _write_config(part, folder, config.text, widths)
        for pattern in _BESIDE:
            for path in folder.glob(pattern):
                if path.name not in ("config.json", INDEX):
                    shutil.copyfile(path, part / path.name)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _cuts(checkpoint: Checkpoint, config: TextConfig, widths: Widths) -> list[_Cut]:
    kept = kept_layers(widths)
    number = {layer: at for at, layer in enumerate(kept)}
    block = config.hidden_size_per_layer_input
    blocks = tuple((layer * block, (layer + 1) * block) for layer in kept)
    cuts = []
    for name, stored in checkpoint.tensors.items():
        if name == PER_LAYER_TABLE:
            cuts.append(_Cut(name, name, stored, columns=blocks))
        elif name == _PER_LAYER_PROJECTION:
            cuts.append(_Cut(name, name, stored, rows=blocks))
        elif (found := _LAYER.fullmatch(name)) is None:
            cuts.append(_Cut(name, name, stored))
        elif (layer := int(found[2])) in number:
            renamed, units = f"{found[1]}{number[layer]}{found[3]}", ((0, widths[layer]),)
            if found[3] in (".mlp.gate_proj.weight", ".mlp.up_proj.weight"):
                cuts.append(_Cut(renamed, name, stored, rows=units))
            elif found[3] == ".mlp.down_proj.weight":
                cuts.append(_Cut(renamed, name, stored, columns=units))
            else:
                cuts.append(_Cut(renamed, name, stored))
    return cuts


def _write_weights(
    folder: Path, checkpoint: Checkpoint, cuts: Sequence[_Cut], progress: Callable[[float], None]
) -> None:
    def file_of(cut: _Cut) -> str:
        return str(cut.stored.file)

    files = [list(members) for _, members in groupby(sorted(cuts, key=file_of), key=file_of)]
    names = [SINGLE]
    if len(files) > 1:
        names = [f"model-{at + 1:05}-of-{len(files):05}.safetensors" for at in range(len(files))]
        weight_map = {cut.name: name for name, members in zip(names, files, strict=True) for cut in members}
        index = {"metadata": {"total_size": sum(cut.nbytes for cut in cuts)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    total, done = sum(cut.nbytes for cut in cuts), 0
    for name, members in zip(names, files, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(members))
            for cut in members:
                for piece in cut.pieces(checkpoint.read(cut.source)):
                    file.write(piece.numpy().data)
                    done += len(piece)
                    progress(done / total)


def _header(cuts: Sequence[_Cut]) -> bytes:
    """What stands before the numbers in a file in safetensors format."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for cut in cuts:
        end = begin + cut.nbytes
        entries[cut.name] = {
            "dtype": cut.stored.dtype,
            "shape": list(cut.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _write_config(out: Path, folder: Path, config: TextConfig, widths: Widths) -> None:
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    own = sliced(config, widths)
    raw["text_config"] |= {
        "num_hidden_layers": own.num_hidden_layers,
        "num_kv_shared_layers": own.num_kv_shared_layers,
        "intermediate_size": list(own.intermediate_size),
        "layer_types": list(own.layer_types),
        "activation_sparsity_pattern": list(own.activation_sparsity_pattern),
    }
    (out / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", "utf-8")
