"""Resident memory of encoder and decoder workers with a model of published size and random weights.

    python -m benchmarks.memory [--size e2b] [--streams 16] [--folder DIR]

Writes a checkpoint of that size in bfloat16 into a temporary folder (``--folder`` says where; 15 GB for E2B,
deleted at the end), converts its per-layer embeddings to 8 bits, and loads it as workers do, each in a
process of its own: encoders in float32, which is what they compute in beside a GPU, decoders in bfloat16 on
the CPU with the converted table. Streams then hear four seconds of noise that passes for speech (encoder) or
have as many sequences of 16 tokens (decoder).

*Own* is memory that nobody else has (``RssAnon``), *mapped* are pages of files, which processes of a node
share and the kernel takes back when it is short of memory (``RssFile``), *peak* is the most of both together
(``VmHWM``). A decoder on a GPU has its weights there, not in mapped pages, and what CUDA takes besides,
which is not measured here.

Prints a table and, as its last line, one JSON object, in GiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import PUBLISHED
from pipeline import ple_file
from pipeline.batching import run_alone
from pipeline.checkpoint import SINGLE
from pipeline.config import SAMPLE_RATE, AudioFormat, ModelConfig, StreamConfig
from pipeline.gemma.greedy import Segment
from pipeline.layout import empty_parts
from workers.loading import load_decoder, load_encoder

SECONDS = 4
TOKENS = 16

_CHUNK = 32 << 20


def write_checkpoint(folder: Path, size: str) -> None:
    """A checkpoint with the tensors of a published size, all of them random in bfloat16."""
    raw = {"model_type": "gemma3n", "text_config": PUBLISHED[size], "audio_config": {"hidden_size": 1536}}
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    header, end = {}, 0
    for prefix, part in empty_parts(ModelConfig.from_pretrained(folder)).items():
        for name, tensor in part.state_dict().items():
            begin, end = end, end + 2 * tensor.numel()
            header[f"{prefix}.{name}"] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [begin, end],
            }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    noise = torch.empty(_CHUNK // 2, dtype=torch.bfloat16).normal_(std=0.02)
    chunk = noise.view(torch.uint8).numpy().tobytes()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, _CHUNK):
            file.write(chunk[: end - start])


def resident() -> dict[str, float]:
    """Memory of this process in GiB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssFile:", "VmHWM:")}
    names = {"own": "RssAnon:", "mapped": "RssFile:", "peak": "VmHWM:"}
    return {name: round(kilobytes[field] / 2**20, 2) for name, field in names.items()}


def encoder(folder: str, streams: int) -> dict[str, float]:
    """Memory of an encoder worker whose streams have all heard something."""
    torch.set_num_threads(2)
    loaded = load_encoder(folder, "cpu", "float32")
    noise = np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)
    heard = (6_000 * noise).astype("<i2").tobytes()
    config = StreamConfig(audio=AudioFormat())
    opened = [loaded.open_stream(config) for _ in range(streams)]
    for stream in opened:
        run_alone(stream.steps(heard), loaded.carry_out)
    return resident()


def decoder(folder: str, streams: int) -> dict[str, float]:
    """Memory of a decoder worker with sequences in its cache."""
    torch.set_num_threads(2)
    loaded = load_decoder(folder, "cpu", "bfloat16", str(ple_file.default_path(Path(folder), 8)))
    model = loaded.open_stream.args[0]  # type: ignore[attr-defined]
    pool = model.new_pool()
    caches = [model.new_cache(pool) for _ in range(streams)]
    ids = np.random.default_rng(0).integers(1_000, 250_000, (streams, TOKENS)).tolist()
    loaded.carry_out([Segment(cache, some, 1) for cache, some in zip(caches, ids, strict=True)])
    return resident()


def measure(folder: Path, size: str, streams: int) -> Mapping[str, Mapping[str, float]]:
    """Memory of both workers, each in a new process."""
    write_checkpoint(folder, size)
    ple_file.convert(folder)
    results = {}
    spawn = multiprocessing.get_context("spawn")
    for worker in (encoder, decoder):
        with spawn.Pool(1) as process:
            results[worker.__name__] = process.apply(worker, (str(folder), streams))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=sorted(PUBLISHED), default="e2b")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where to put the checkpoint for the while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options.size, options.streams)
    print(f"{options.size}, {options.streams} streams")
    print("| worker | own | mapped | peak |")
    print("|---|---|---|---|")
    for name, gib in results.items():
        print(f"| {name} | {gib['own']:.2f} GiB | {gib['mapped']:.2f} GiB | {gib['peak']:.2f} GiB |")
    print(json.dumps({"size": options.size, "streams": options.streams, **results}))


if __name__ == "__main__":
    main()
