"""Quantised per-layer embedding tables, in files of their own beside a checkpoint's.

A file is in safetensors format and holds ``values`` and ``scales`` as :mod:`kernels.ple` describes them for
tables of 8 and 4 bits. A scale is the largest magnitude of its block divided by that of the integers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.checkpoint import Checkpoint, locate
from pipeline.config import ModelConfig
from pipeline.errors import CheckpointError
from pipeline.layout import PER_LAYER_TABLE, check

BITS = (8, 4)
"""How many bits a value may have."""

_CHUNK = 1024  # rows that are converted at once: bounds the memory
_SAMPLES = 16  # rows by which a file is told from one of another checkpoint


def default_path(folder: Path, bits: int) -> Path:
    """Where a checkpoint's converted table is looked for and put by default."""
    return folder / f"ple.int{bits}.safetensors"


def find(folder: Path) -> list[Path]:
    """The converted tables that lie in a checkpoint's folder."""
    return [path for bits in BITS if (path := default_path(folder, bits)).is_file()]


def quantise(rows: Tensor, layers: int, bits: int) -> tuple[Tensor, Tensor]:
    """Quantise rows of a table.

    Args:
        rows: floating point [n, layers * width].
        layers: how many blocks a row has.
        bits: 8, or 4 if the width is even.

    Returns:
        Values, int8 [n, layers * width] or uint8 [n, layers * width / 2], and float32 scales [n, layers].
    """
    most = 2 ** (bits - 1) - 1
    blocks = torch.unflatten(rows.float(), -1, (layers, -1))
    scales = blocks.abs().amax(-1) / most
    divisors = scales.where(scales > 0, 1).unsqueeze(-1)
    values = (blocks / divisors).round().clamp(-most, most)
    if bits == 8:
        return values.to(torch.int8).flatten(1), scales
    low, high = (values + 8).to(torch.uint8).chunk(2, dim=-1)
    return (low | high << 4).flatten(1), scales


def convert(
    model: str | Path,
    path: Path | None = None,
    bits: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Write a checkpoint's table quantised.

    Args:
        model: a folder or a Hugging Face id.
        path: of the file; None for :func:`default_path`. It appears when it is complete.
        bits: one of :data:`BITS`.
        progress: told which share of the table is done, now and then.

    Returns:
        The path.

    Raises:
        CheckpointError: as in :meth:`pipeline.model.Gemma3n.from_pretrained`; or the table has values that
            are not finite, or blocks that 4 bits do not fit.
        OSError: the file cannot be written.
    """
    folder = locate(model)
    config = ModelConfig.from_pretrained(folder)
    checkpoint = Checkpoint(folder)
    check(checkpoint, config)
    width = config.text.hidden_size_per_layer_input
    if bits == 4 and width % 2:
        raise CheckpointError(f"{folder}: per-layer embeddings of odd width ({width}) cannot have 4 bits")
    path = default_path(folder, bits) if path is None else path
    part = path.with_name(f"{path.name}.part")
    try:
        _write(part, checkpoint.read(PER_LAYER_TABLE), config.text.num_hidden_layers, bits, progress)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read(path: Path, original: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Map a converted table into memory.

    Args:
        path: of the file.
        original: the checkpoint's own table, [rows, layers * width].
        layers: how many blocks a row has.

    Returns:
        Values and scales as :func:`quantise` returns them, of all rows.

    Raises:
        CheckpointError: there is no such file, or it was not made from ``original``.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        values, scales = file.get_tensor("values"), file.get_tensor("scales")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a file that `surtitle model convert-ple` made: {error}") from None
    sample = torch.linspace(0, len(original) - 1, _SAMPLES).long()
    bits = 4 if values.dtype == torch.uint8 else 8
    for stored, expected in zip((values, scales), quantise(original[sample], layers, bits), strict=True):
        shape = (len(original), *expected.shape[1:])
        if (
            stored.dtype != expected.dtype
            or stored.shape != shape
            or not torch.equal(stored[sample], expected)
        ):
            raise CheckpointError(f"{path}: not made from this checkpoint's table")
    return values, scales


def _write(path: Path, table: Tensor, layers: int, bits: int, progress: Callable[[float], None]) -> None:
    rows, row_bytes = len(table), table.shape[1] * bits // 8
    scales_end = 4 * rows * layers
    header = json.dumps(
        {
            "scales": {"dtype": "F32", "shape": [rows, layers], "data_offsets": [0, scales_end]},
            "values": {
                "dtype": "I8" if bits == 8 else "U8",
                "shape": [rows, row_bytes],
                "data_offsets": [scales_end, scales_end + rows * row_bytes],
            },
        }
    ).encode()
    header += b" " * (-(8 + len(header)) % 64)  # so that the numbers behind it are aligned
    begin = 8 + len(header)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, rows, _CHUNK):
            values, scales = quantise(table[start : start + _CHUNK], layers, bits)
            if not scales.isfinite().all():
                raise CheckpointError(f"{PER_LAYER_TABLE}: a value around row {start} is not finite")
            file.seek(begin + 4 * start * layers)
            file.write(scales.numpy().tobytes())
            file.seek(begin + scales_end + start * row_bytes)
            file.write(values.numpy().tobytes())
            progress(min(1.0, (start + _CHUNK) / rows))
