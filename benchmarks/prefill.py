"""Prefill with and without the layers that share KV, and transformers on the same weights.

    python -m benchmarks.prefill [--device cpu|cuda] [--lengths 64 1000 8000] [--repeat 5] [--fuse]

On the CPU it is the bundled model in float32, on a GPU models of the sizes of E2B and E4B with random weights
in bfloat16 (per-layer embeddings on the CPU, as always). Each length is a prompt of text ids that is taken
into an empty cache up to the logits of its last position: with the layers above the sharing point run over
that position alone (``skip``), with them run over all positions (``full``), and by transformers. The three
take turns; times are medians. The limit of the skip is the ratio of the multiplications that weights and
attention need without and with it; the output projection is computed for the last position alone in all
three. Masked attention computes more than it needs, which the skip spares too, so that a long prompt can gain
more than the limit. On a GPU ours are passes of fixed shapes, recorded in the first turn, which is not timed;
``--fuse`` compiles the layers as well (:meth:`pipeline.gemma.decoder.Decoder.fuse`).

Prints a table and, as its last line, one JSON object: ``skip_speedup`` and ``vs_transformers`` are those of
the longest prompt of the first model, ``skip_limit`` is the limit there, and ``runs`` has all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.clock import seconds_of
from benchmarks.models import PUBLISHED, bundled, published
from pipeline.config import FULL, SLIDING
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import BLOCK, KVCache, KVPool
from pipeline.gemma.greedy import Segment
from pipeline.gemma.ids import end_of_text
from pipeline.gemma.steps import FixedSteps
from pipeline.model import Gemma3n

BUDGET = 6.0
"""Seconds after which a length that takes long is not repeated any more."""


@dataclass(frozen=True)
class Run:
    """One line of the table; times are seconds.

    Attributes:
        model: its name.
        length: positions of the prompt.
        skip: with the layers above the sharing point over the last position alone.
        full: with them over all positions.
        transformers: transformers' time.
        skip_speedup: ``full / skip``.
        skip_limit: what that could be at most.
        vs_transformers: ``transformers / skip``.
        error: largest difference from transformers' logits, as a part of their standard deviation.
        behind: how far the id that was chosen is behind the most likely one of transformers, in the same.
    """

    model: str
    length: int
    skip: float
    full: float
    transformers: float
    skip_speedup: float
    skip_limit: float
    vs_transformers: float
    error: float
    behind: float


def prefill(model: Gemma3n, ids: Sequence[int], *, skip: bool) -> Tensor:
    """Logits of the last position, [vocab]."""
    decoder = model.language_model
    cache = KVCache(model.new_pool(len(ids) + 1), len(ids))
    for piece in Segment(cache, ids, 1).pieces(model.config.audio_token_id, model.most_in_pass):
        count = len(piece.token_ids)
        cache.reserve(count)
        keep = piece.keep if skip else count
        token_ids = torch.tensor([piece.token_ids])
        embeddings = model.embed(token_ids, None)
        ahead = Ahead.of_sequences([cache], [count], [keep], embeddings.device)
        rows = decoder.embed_tokens_per_layer(token_ids, embeddings)
        hidden = decoder.next_hidden(rows, embeddings, cache.pool, ahead)
        cache.advance(count)
    return decoder.logits(hidden[0, -1])


def choose(model: Gemma3n, pool: KVPool, ids: Sequence[int]) -> Tensor:
    """The most likely id behind the last position, a scalar; in the shapes of the pool's passes."""
    (answer,) = model.step([Segment(model.new_cache(pool), ids, 1)])
    if isinstance(answer, Exception):
        raise answer
    return torch.tensor(answer[0])


def recorded(model: Gemma3n, positions: int, *, skip: bool) -> KVPool:
    """A pool for so many positions whose passes are recorded when they first come."""
    pool = model.new_pool(positions)
    choices = end_of_text(model.config)
    pool.steps[None] = FixedSteps(model.language_model, pool, choices, skip=skip)
    return pool


def skip_limit(model: Gemma3n, length: int) -> float:
    """Multiplications at all positions by all layers, over those by the layers that own keys and values."""
    decoder, config = model.language_model, model.config.text
    seen = {FULL: (length + 1) / 2, SLIDING: min(config.sliding_window, (length + 1) / 2)}
    # Queries with keys and weights with values, as far as the mask lets them.
    layers = [
        sum(p.numel() for p in layer.parameters() if p.ndim == 2)
        + 2 * config.num_attention_heads * config.head_dim * seen[kind]
        for layer, kind in zip(decoder.layers, config.layer_types, strict=True)
    ]
    common = [decoder.per_layer_model_projection, decoder.altup_projections]
    outside = sum(p.numel() for part in common for p in part.parameters())
    return (outside + sum(layers)) / (outside + sum(layers[: config.first_shared_layer]))


def seconds(runs: Sequence[Callable[[], Tensor]], device: torch.device, repeat: int) -> list[float]:
    """Median seconds of each of ``runs``, which take turns; the first turn only warms up."""
    times: list[list[float]] = [[] for _ in runs]
    began = 0.0
    for turn in range(repeat + 1):
        if turn == 1:
            began = time.perf_counter()
        for run, taken in zip(runs, times, strict=True):
            took = seconds_of(run, device)
            if turn:
                taken.append(took)
        if turn and time.perf_counter() - began > BUDGET:
            break
    return [statistics.median(taken) for taken in times]


def measure(
    name: str, model: Gemma3n, reference: torch.nn.Module, lengths: Sequence[int], repeat: int
) -> list[Run]:
    """All lengths of one model."""
    device = model.language_model.embed_tokens.weight.device
    generator = torch.Generator().manual_seed(0)
    runs = []
    pools = []
    if device.type == "cuda":
        pools = [recorded(model, max(lengths) + BLOCK, skip=skip) for skip in (True, False)]
    for length in lengths:
        limit = skip_limit(model, length)
        ids = torch.randint(10, model.config.text.vocab_size_per_layer_input, (length,), generator=generator)
        there = ids[None].to(device)

        def theirs(ids: Tensor = there) -> Tensor:
            logits: Tensor = reference(input_ids=ids, use_cache=True, logits_to_keep=1).logits[0, -1]
            return logits

        ours = [partial(prefill, model, ids.tolist(), skip=skip) for skip in (True, False)]
        run_ours = [partial(choose, model, pool, ids.tolist()) for pool in pools] or ours
        expected = theirs().float()
        error = float((ours[0]().float() - expected).abs().max() / expected.std())
        skip, full, other = seconds([*run_ours, theirs], device, repeat)
        id_ = int(run_ours[0]()) if pools else int(ours[0]().argmax())
        behind = float((expected[: end_of_text(model.config)].max() - expected[id_]) / expected.std())
        run = Run(name, length, skip, full, other, full / skip, limit, other / skip, error, behind)
        print(
            f"{name:<8}{length:>7}{skip * 1e3:>12.2f}{full * 1e3:>12.2f}{other * 1e3:>14.2f}"
            f"{run.skip_speedup:>9.2f}x{limit:>8.2f}x{run.vs_transformers:>9.2f}x{error:>10.1e}{behind:>8.3f}",
            flush=True,
        )
        runs.append(run)
    return runs


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 1000, 8000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--fuse", action="store_true", help="on a GPU, compile the decoder's layers")
    options = parser.parse_args(argv)
    if min(*options.lengths, options.repeat) < 1:
        parser.error("--lengths and --repeat must be at least 1")
    print(
        "model    length     skip ms     full ms  transformers   speedup   limit  vs them     error  behind"
    )
    runs: list[Run] = []
    if options.device == "cpu":
        runs += measure("bundled", *bundled(), options.lengths, options.repeat)
    else:
        for name in PUBLISHED:
            model, reference = published(name, torch.device("cuda"))
            if options.fuse:
                model.language_model.fuse()
            runs += measure(name, model, reference, options.lengths, options.repeat)
            del model, reference
            torch.cuda.empty_cache()
    judged = max((run for run in runs if run.model == runs[0].model), key=lambda run: run.length)
    result = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "fuse": options.fuse,
        "skip_speedup": judged.skip_speedup,
        "skip_limit": judged.skip_limit,
        "vs_transformers": judged.vs_transformers,
        "runs": [asdict(run) for run in runs],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
