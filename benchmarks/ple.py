"""Looking up per-layer embeddings: the kernels beside torch, same tables, same run.

    python -m benchmarks.ple [--device cpu|cuda] [--batch 1 8] [--rows 65536] [--repeat 200]

Rows are those of Gemma 3n E2B, 30 layers of 256 values, drawn at random from tables that no cache holds.
Kernel and torch take turns, so that a busy machine disturbs both alike; times are medians. Torch runs with
one thread and with all of its threads, the kernel always with one. The limit is the time in which memory
hands over the bytes of a batch's rows, at the speed at which one thread reads the whole table in order. Rows
lie far apart, though, so beside it stands how long it takes to copy them as they are (*copied*).

With ``--device cuda`` rows become bfloat16, in pinned memory, and are copied, which is waited for; and
recorded decode steps of E2B's size with random weights are timed, with an int8 table on the CPU and with a
bfloat16 one on the GPU.

Prints a table and, as its last line, one JSON object: ``vs_torch`` is how many times faster than the faster
torch the kernel looks up a batch of 64 in an int8 table, ``of_limit`` and ``of_copied`` how near to the limit
and to copying it is then (1 is at it), ``step_overhead`` by which part of itself a step of 64 is longer with
the table on the CPU, and ``step_overhead_1`` the same of a single sequence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clock import seconds_of
from pipeline.config import TextConfig
from pipeline.gemma.cache import BLOCK, KVCache, KVPool, reserve
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.ple import PerLayerEmbedding, PerLayerTable
from pipeline.gemma.steps import FixedSteps

JUDGED = 64
"""The batch whose ratios are the result."""

FORMS = {16: "bfloat16", 8: "int8", 4: "int4"}
"""Names of the tables by the bits of their values."""


@dataclass(frozen=True)
class Measured:
    """One line of the table; times are seconds, the limit too."""

    form: str
    batch: int
    torch_threads: int
    kernel: float
    torch: float
    copied: float
    limit: float


def e2b(rows: int) -> TextConfig:
    """The decoder of Gemma 3n E2B with a table of ``rows`` rows."""
    return TextConfig.from_dict(
        {
            "num_hidden_layers": 30,
            "num_kv_shared_layers": 10,
            "intermediate_size": 8192,
            "vocab_size_per_layer_input": rows,
        }
    )


def random_table(config: TextConfig, bits: int) -> tuple[Tensor, Tensor | None]:
    """A table of random numbers, and the scales of a quantised one."""
    generator = torch.Generator().manual_seed(bits)
    rows, layers = config.vocab_size_per_layer_input, config.num_hidden_layers
    width = layers * config.hidden_size_per_layer_input * bits // 8
    integers = torch.empty((rows, width), dtype=torch.uint8).random_(generator=generator)
    if bits == 16:
        return integers.view(torch.int16).bitwise_and_(0x3FFF).view(torch.bfloat16), None
    scales = torch.rand((rows, layers), generator=generator)
    return integers.view(torch.int8) if bits == 8 else integers, scales


def look_up(config: TextConfig, table: Tensor, scales: Tensor | None, ids: Tensor, like: Tensor) -> Tensor:
    """What one would write without a kernel, in as few passes over the rows as torch allows."""
    layers, factor = config.num_hidden_layers, config.hidden_size_per_layer_input**0.5
    rows: Tensor = F.embedding(ids, table)
    if scales is None:
        rows = rows.to(like.dtype) * factor
        return rows.to(like.device)
    blocks = torch.unflatten(rows, -1, (layers, -1))
    if table.dtype == torch.uint8:
        blocks = torch.cat([blocks & 15, blocks >> 4], -1).to(torch.int8) - 8
    scaled: Tensor = blocks * (F.embedding(ids, scales) * factor).unsqueeze(-1)
    return scaled.to(like.device, like.dtype)


def medians(
    runs: Sequence[Callable[[Tensor], object]], ids: Iterator[Tensor], repeat: int, device: torch.device
) -> list[float]:
    """Median seconds of each of ``runs``, taken in turn, each with ids whose rows are in no cache."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeat + 1):
        for run, taken in zip(runs, times, strict=True):
            took = seconds_of(partial(run, next(ids)), device)
            if turn:  # in the first one things are compiled and recorded
                taken.append(took)
    return [statistics.median(taken) for taken in times]


def random_ids(config: TextConfig, batch: int) -> Iterator[Tensor]:
    """Batches of one token per sequence, [batch, 1], without end."""
    random = np.random.default_rng(0)
    while True:
        yield torch.from_numpy(random.integers(0, config.vocab_size_per_layer_input, (batch, 1)))


def seconds_per_byte(table: Tensor) -> float:
    """How long one thread takes to read a byte of memory, in order."""
    words = table.view(torch.int16).numpy().reshape(-1)
    words = words[: len(words) // 4 * 4].view(np.int64)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        words.max()
        times.append(time.perf_counter() - started)
    return statistics.median(times) / words.nbytes


def compare(
    config: TextConfig, bits: int, like: Tensor, batches: Sequence[int], repeat: int
) -> Iterator[Measured]:
    """Kernel and torch on one table, by batch and torch's threads."""
    table, scales = random_table(config, bits)
    kernel = PerLayerTable(config, table, scales)
    rows = table.view(torch.uint8).numpy()
    reading = seconds_per_byte(table)
    nbytes = table[0].nbytes + (0 if scales is None else scales[0].nbytes)
    most = torch.get_num_threads()
    for threads in sorted({1, most}):
        torch.set_num_threads(threads)
        for batch in batches:
            runs = (
                lambda ids: kernel(ids, like),
                lambda ids: look_up(config, table, scales, ids, like),
                lambda ids: np.take(rows, ids.numpy()[:, 0], 0),
            )
            times = medians(runs, random_ids(config, batch), repeat, like.device)
            yield Measured(FORMS[bits], batch, threads, *times, batch * nbytes * reading)
    torch.set_num_threads(most)


def step_overhead(
    config: TextConfig, device: torch.device, batches: Sequence[int], repeat: int
) -> list[float]:
    """By which part of itself a decode step is longer with an int8 table on the CPU than one on ``device``.

    The sequences are the shortest there are, so the step is too, and the part is the largest.
    """
    with device:
        decoder = Decoder(config).to(torch.bfloat16).requires_grad_(False).eval()
    there, here = decoder.embed_tokens_per_layer, PerLayerTable(config, *random_table(config, 8))
    pool = KVPool(config, torch.bfloat16, device, max(batches) * BLOCK)
    steps = FixedSteps(decoder, pool, config.vocab_size_per_layer_input)
    parts = []
    for batch in batches:
        caches = [KVCache(pool, BLOCK) for _ in range(batch)]
        reserve(caches, [1] * batch)

        def step(table: PerLayerEmbedding, ids: Tensor, caches: Sequence[KVCache] = caches) -> None:
            decoder.embed_tokens_per_layer = table
            for chosen in steps.step(caches, ids.flatten().tolist()):
                chosen()

        runs = (partial(step, here), partial(step, there))
        longer, shorter = medians(runs, random_ids(config, batch), repeat, device)
        parts.append(longer / shorter - 1)
    return parts


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the rows are wanted")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help=f"besides {JUDGED}")
    parser.add_argument("--rows", type=int, default=65_536, help="of a table; E2B has 262144")
    parser.add_argument("--repeat", type=int, default=200)
    options = parser.parse_args(argv)
    if min(*options.batch, options.rows, options.repeat) < 1:
        parser.error("--batch, --rows and --repeat must be at least 1")

    config = e2b(options.rows)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    like = torch.empty(0, device=options.device, dtype=dtype)
    print("table     batch  torch's threads     kernel      torch  ratio     copied      limit  of it")
    lines = []
    for bits in FORMS:
        for line in compare(config, bits, like, sorted({*options.batch, JUDGED}), options.repeat):
            lines.append(line)
            print(
                f"{line.form:<10}{line.batch:>5}{line.torch_threads:>17}"
                f"{line.kernel * 1e6:>8.1f} us{line.torch * 1e6:>8.1f} us{line.torch / line.kernel:>6.1f}x"
                f"{line.copied * 1e6:>8.1f} us{line.limit * 1e6:>8.1f} us{line.limit / line.kernel:>7.0%}"
            )
    judged = [line for line in lines if line.form == "int8" and line.batch == JUDGED]
    result = {
        "device": options.device,
        "vs_torch": min(line.torch for line in judged) / min(line.kernel for line in judged),
        "of_limit": max(line.limit / line.kernel for line in judged),
        "of_copied": max(line.copied / line.kernel for line in judged),
        "lookups": [asdict(line) for line in lines],
    }
    if options.device == "cuda":
        one, many = step_overhead(config, like.device, (1, JUDGED), options.repeat)
        print(f"with the table on the CPU a step of 1 is longer by {one:.1%}, one of {JUDGED} by {many:.1%}")
        result |= {"step_overhead": many, "step_overhead_1": one}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
