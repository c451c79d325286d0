"""Small passes on one CPU thread: a layer at a time in one piece, beside a pass like any other.

    python -m benchmarks.steps [--passes 1x1 2x1 4x1 8x1 1x4 1x8 1x16 1x32 4x8] [--positions 300]
                               [--repeat 60] [--model DIR]

A pass of 4x8 is the next 8 positions of each of 4 sequences, with the most likely next token behind each: one
position is a step of decoding, several are the check of a draft. Both ways continue the same sequences of
random ids in turns, on the same weights. Then the encoder's steps of 160 ms of audio, of 1 to 8 streams at
once. Times are of the CPU, so other programs on the machine count little. Prints tables of medians and, as
its last line, one JSON object: ``lines`` with the milliseconds of each way and the largest difference between
their final hidden states, and ``encoder`` with the same of soft encodings.
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

from benchmarks.models import NANO
from pipeline.encoder.streaming import StreamingEncoder
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.quick import QuickPasses
from pipeline.model import Gemma3n

PASSES = ("1x1", "2x1", "4x1", "8x1", "1x4", "1x8", "1x16", "1x32", "4x8")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        sequences: in a pass.
        new: positions of each.
        quick_ms: median of the pass in one piece.
        plain_ms: of the plain pass.
        difference: largest between their final hidden states.
    """

    sequences: int
    new: int
    quick_ms: float
    plain_ms: float
    difference: float


def compare(model: Gemma3n, sequences: int, new: int, positions: int, repeat: int) -> Line:
    """Time passes of ``new`` positions of so many sequences, each of which has ``positions`` already."""
    decoder, random = model.language_model, np.random.default_rng(sequences)
    choices = min(model.config.text.vocab_size, model.config.text.vocab_size_per_layer_input)
    quick = QuickPasses(decoder, choices)
    pool = model.new_pool(sequences * (positions + new))
    caches = [model.new_cache(pool) for _ in range(sequences)]
    for cache in caches:
        model.extend(cache, random.integers(choices, size=positions).tolist())
        cache.reserve(new)
    counts = [new] * sequences
    ids = torch.from_numpy(random.integers(choices, size=(1, sequences * new)))
    embeddings = decoder.embed(ids)
    rows = decoder.embed_tokens_per_layer(ids, embeddings)

    def plain() -> torch.Tensor:
        ahead = Ahead.of_sequences(caches, counts, counts, embeddings.device)
        return decoder.next_hidden(rows, embeddings, pool, ahead)[0]

    difference = np.abs(quick.hidden(caches, counts, counts, rows, embeddings) - plain().numpy()).max()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        started = time.process_time()
        quick.logits(caches, counts, counts, rows, embeddings).argmax(-1).tolist()
        between = time.process_time()
        decoder.logits(plain())[:, :choices].argmax(-1).tolist()
        times[0].append(between - started)
        times[1].append(time.process_time() - between)
    quick_ms, plain_ms = (1e3 * statistics.median(taken) for taken in times)
    return Line(sequences, new, quick_ms, plain_ms, float(difference))


@dataclass(frozen=True)
class EncoderLine:
    """One line of the encoder's table.

    Attributes:
        streams: in a step.
        quick_ms: median of the step with its blocks in one piece.
        plain_ms: of the plain step.
        difference: largest between their soft encodings.
    """

    streams: int
    quick_ms: float
    plain_ms: float
    difference: float


def compare_encoder(model: Gemma3n, streams: int, repeat: int) -> EncoderLine:
    """Time steps of 160 ms of audio of so many streams."""
    tower = model.audio_tower
    quick, plain = StreamingEncoder(tower), StreamingEncoder(tower)
    plain.quick = None
    states = [[encoder.initial_state() for _ in range(streams)] for encoder in (quick, plain)]
    times: tuple[list[float], list[float]] = ([], [])
    difference = 0.0
    for number in range(repeat + 1):
        count = tower.token_stride if number else tower.first_frames
        mels = [torch.randn(count, tower.config.input_feat_size) for _ in range(streams)]
        encoded = []
        for encoder, own, taken in zip((quick, plain), states, times, strict=True):
            started = time.process_time()
            encoded.append(encoder.push_many(own, mels))
            taken.append(time.process_time() - started)
        for one, other in zip(*encoded, strict=True):
            assert isinstance(one, torch.Tensor)
            assert isinstance(other, torch.Tensor)
            difference = max(difference, float((one - other).abs().max()))
    quick_ms, plain_ms = (1e3 * statistics.median(taken) for taken in times)
    return EncoderLine(streams, quick_ms, plain_ms, difference)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--passes", nargs="+", default=PASSES, help="sequences x new positions of each")
    parser.add_argument("--positions", type=int, default=300, help="that each sequence has already")
    parser.add_argument("--repeat", type=int, default=60)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    parser.add_argument("--int8", action="store_true", help="with weights in int8")
    options = parser.parse_args(argv)
    dtype = torch.int8 if options.int8 else torch.float32
    try:
        passes = [(int(sequences), int(new)) for sequences, new in (one.split("x") for one in options.passes)]
    except ValueError:
        parser.error("--passes must be like 4x8")
    if min(options.positions, options.repeat, *(number for one in passes for number in one)) < 1:
        parser.error("--passes, --positions and --repeat must be at least 1")
    torch.set_num_threads(1)
    model, lines = Gemma3n.from_pretrained(options.model, dtype=dtype), []
    print("sequences  new    in one piece     plain  ratio  difference")
    for sequences, new in passes:
        line = compare(model, sequences, new, options.positions, options.repeat)
        lines.append(line)
        print(
            f"{line.sequences:>9}{line.new:>5}{line.quick_ms:>13.2f} ms{line.plain_ms:>7.2f} ms"
            f"{line.plain_ms / line.quick_ms:>6.2f}x{line.difference:>12.1e}",
            flush=True,
        )
    print("streams of the encoder")
    encoder = [compare_encoder(model, streams, options.repeat) for streams in (1, 2, 4, 8)]
    for step in encoder:
        print(
            f"{step.streams:>14}{step.quick_ms:>13.2f} ms{step.plain_ms:>7.2f} ms"
            f"{step.plain_ms / step.quick_ms:>6.2f}x{step.difference:>12.1e}"
        )
    print(json.dumps({"lines": [asdict(line) for line in lines], "encoder": [asdict(s) for s in encoder]}))


if __name__ == "__main__":
    main()
