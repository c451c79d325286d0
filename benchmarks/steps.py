"""Decode steps on one CPU thread: a layer at a time in one piece, beside a pass like any other.

    python -m benchmarks.steps [--sequences 1 2 4 8 12] [--positions 300] [--repeat 60] [--model DIR]

Both continue the same sequences of random ids in turns, on the same weights. Prints a table of medians and,
as its last line, one JSON object: ``lines`` with the milliseconds of each and the largest difference between
their final hidden states.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import NANO
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import KVCache
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.quick import QuickSteps
from pipeline.model import Gemma3n


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        sequences: in a step.
        quick_ms: median of the step in one piece.
        plain_ms: of the plain pass.
        difference: largest between their final hidden states.
    """

    sequences: int
    quick_ms: float
    plain_ms: float
    difference: float


def plain_hidden(decoder: Decoder, caches: Sequence[KVCache], ids: Sequence[int]) -> Tensor:
    """Final hidden states by a pass like any other, [N, hidden]."""
    token_ids = torch.tensor([ids])
    embeddings = decoder.embed(token_ids)
    ones = [1] * len(ids)
    ahead = Ahead.of_sequences(caches, ones, ones, embeddings.device)
    rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
    return decoder.next_hidden(rows, embeddings, caches[0].pool, ahead)[0]


def compare(model: Gemma3n, sequences: int, positions: int, repeat: int) -> Line:
    """Time steps of so many sequences, each of so many positions."""
    decoder, random = model.language_model, np.random.default_rng(sequences)
    text = model.config.text
    end = text.vocab_size_per_layer_input
    choices = min(text.vocab_size, end)
    quick = QuickSteps(decoder, choices)
    pool = model.new_pool(sequences * (positions + 1))
    caches = [model.new_cache(pool) for _ in range(sequences)]
    for cache in caches:
        model.extend(cache, random.integers(choices, size=positions).tolist())
        cache.reserve(1)
    ids = random.integers(choices, size=sequences).tolist()
    difference = np.abs(quick.hidden(caches, ids) - plain_hidden(decoder, caches, ids).numpy()).max()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        started = time.perf_counter()
        quick.step(caches, ids)
        between = time.perf_counter()
        decoder.logits(plain_hidden(decoder, caches, ids))[:, :choices].argmax(-1).tolist()
        times[0].append(between - started)
        times[1].append(time.perf_counter() - between)
    quick_ms, plain_ms = (1e3 * statistics.median(taken) for taken in times)
    return Line(sequences, quick_ms, plain_ms, float(difference))


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8, 12])
    parser.add_argument("--positions", type=int, default=300, help="of each sequence")
    parser.add_argument("--repeat", type=int, default=60)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    options = parser.parse_args(argv)
    if min(*options.sequences, options.positions, options.repeat) < 1:
        parser.error("--sequences, --positions and --repeat must be at least 1")
    torch.set_num_threads(1)
    model, lines = Gemma3n.from_pretrained(options.model), []
    print("sequences    in one piece     plain  ratio  difference")
    for sequences in options.sequences:
        line = compare(model, sequences, options.positions, options.repeat)
        lines.append(line)
        print(
            f"{line.sequences:>9}{line.quick_ms:>13.2f} ms{line.plain_ms:>7.2f} ms"
            f"{line.plain_ms / line.quick_ms:>6.2f}x{line.difference:>12.1e}",
            flush=True,
        )
    print(json.dumps({"lines": [asdict(line) for line in lines]}))


if __name__ == "__main__":
    main()
