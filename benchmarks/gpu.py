"""What :mod:`benchmarks.streams` measures on a GPU besides streams, and streams of a model without words."""

from __future__ import annotations

import gc
import gzip
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from random import randrange
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.clock import seconds_of
from pipeline.audio_stream import Piece
from pipeline.gemma.cache import KVPool
from pipeline.gemma.greedy import Segment
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEnded, SpeechEvent, SpeechHeard, SpeechPaused, SpeechStarted
from pipeline.translation import TOKEN_SECONDS
from pipeline.wire.events import Event, Translation

HELD_OUT = Path(__file__).parent / "data" / "heldout.es-en.tsv.gz"

BATCH = 64
"""Sequences whose steps are compared, and streams whose audio is."""

CONTEXT = 200
"""Positions that they have behind them: an instruction, some ten seconds of audio, and text."""

STEPS = 64
"""Tokens that each generates."""

TOKENS_PER_WORD = 1.3
"""What Gemma's tokenizer makes of a word of Spanish or English, about."""

WORDS_PER_SECOND = 2.5
"""Of continuous speech."""

INSTRUCTION, BEHIND, LABEL = 40, 6, 3
"""Tokens before the audio, behind it, and before a translation, about as in the published prompt."""

LONGEST = 512
"""Positions of the longest sequence: all of the above and half a minute of speech."""

INTERVAL = 4
"""Soft tokens between two hypotheses: 640 ms."""

REDECODED = 2
"""Tokens of a draft that turn out to be wrong: the last word, which was cut."""


def measure(model: Gemma3n, reference: nn.Module, *, fuse: bool) -> dict[str, float]:
    """Steps, and audio that is taken in, beside what they are held against; prints them too.

    Args:
        model: ours.
        reference: theirs.
        fuse: whether to compile our layers, which stays so; steps are measured without that too.
    """
    plain = {}
    if fuse:
        plain = {"plain_step_s": step_seconds(model, 1), "plain_step_64_s": step_seconds(model, BATCH)}
        model.language_model.fuse()
    one, ours = step_seconds(model, 1), step_seconds(model, BATCH)
    theirs = generate_seconds(model, reference)
    speed = bytes_per_second()
    floor = _nbytes(model.language_model) / speed
    reading, computing = ingest_floors(model, speed)
    result = plain | {
        "decode_tokens_per_s": BATCH / ours,
        "transformers_tokens_per_s": BATCH / theirs,
        "decode_vs_transformers": theirs / ours,
        "step_s": one,
        "step_64_s": ours,
        "step_floor_s": floor,
        "step_vs_floor": one / floor,
        "ingest_64_streams_s": ingest_seconds(model),
        "ingest_bandwidth_floor_s": reading,
        "ingest_flop_floor_s": computing,
    }
    _show(result)
    return result


def memory(model: Gemma3n) -> dict[str, float]:
    """Bytes on the device when nothing else is there, and most of them while one sequence is decoded."""
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step_seconds(model, 1)
    result = {
        "decoder_bytes": _nbytes(model.language_model),
        "encoder_bytes": _nbytes(model.audio_tower) + _nbytes(model.embed_audio),
        "table_bytes_on_cpu": model.language_model.embed_tokens_per_layer.weight.nbytes,
        "allocated_bytes": held,
        "max_allocated_bytes": torch.cuda.max_memory_allocated(),
    }
    _show(result)
    return result


def _show(result: dict[str, float]) -> None:
    for name, value in result.items():
        print(f"{name:<28}{value:>20,.6g}", flush=True)


def step_seconds(model: Gemma3n, batch: int) -> float:
    """Seconds of a decode step of ``batch`` sequences, lookups and bookkeeping included."""
    pool = model.new_pool(batch * (CONTEXT + 2 * STEPS))
    caches = [model.new_cache(pool, CONTEXT + 2 * STEPS) for _ in range(batch)]
    first = [Segment(cache, _ids(model, CONTEXT), 1) for cache in caches]
    ids = [answer[0] for answer in map(sound, model.step(first))]
    for timed in (False, True):  # shapes are recorded when they come first
        forks = [cache.fork() for cache in caches]
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            answers = model.step([Segment(fork, [token], 1) for fork, token in zip(forks, ids, strict=True)])
            ids = [sound(answer)[0] for answer in answers]
        torch.cuda.synchronize()
        if timed:
            return (time.perf_counter() - started) / STEPS
    raise AssertionError


def generate_seconds(model: Gemma3n, reference: nn.Module) -> float:
    """Seconds of a step of transformers' ``generate`` for as many sequences, its first pass not counted."""
    ids = torch.tensor([_ids(model, CONTEXT) for _ in range(BATCH)], device="cuda")
    text = model.config.text
    # Random weights would choose placeholders too, which transformers' table of per-layer embeddings lacks.
    placeholders = list(range(text.vocab_size_per_layer_input, text.vocab_size))

    def generate(count: int) -> float:
        run = partial(
            reference.generate,  # type: ignore[arg-type]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            suppress_tokens=placeholders,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        return seconds_of(run, ids.device)

    generate(2)
    return (generate(1 + STEPS) - generate(1)) / STEPS


def ingest_seconds(model: Gemma3n) -> float:
    """Seconds for one second of audio of as many streams: encoder, embedder, layers that own KV."""
    encoder = model.ears.encoder
    model.ears.prepare(BATCH)
    stride, first = encoder.encoder.token_stride, encoder.encoder.first_frames
    bins = model.config.audio.input_feat_size
    random = np.random.default_rng(0)
    states = [encoder.initial_state() for _ in range(BATCH)]
    pool = model.new_pool(BATCH * (CONTEXT + 64))
    caches = [model.new_cache(pool, CONTEXT + 64) for _ in range(BATCH)]
    for answer in model.step([Segment(cache, _ids(model, CONTEXT), 0) for cache in caches]):
        sound(answer)

    def take_in(frames: int) -> None:
        mel = random.normal(size=(frames, bins)).astype(np.float32)
        tokens = [sound(heard) for heard in model.ears.encode([Piece(state, mel) for state in states])]
        soft = model.config.audio_token_id
        for answer in model.step(
            [Segment(c, [soft] * len(t), 0, t) for c, t in zip(caches, tokens, strict=True)]
        ):
            sound(answer)

    for frames in (first, stride, stride, stride, stride):
        take_in(frames)
    torch.cuda.synchronize()
    started = time.perf_counter()
    count = 12
    for _ in range(count):
        take_in(stride)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / (count * TOKEN_SECONDS)


def ingest_floors(model: Gemma3n, speed: float) -> tuple[float, float]:
    """Least seconds for that: to read each soft token's weights once for all streams, and to multiply them.

    Args:
        model: on the device.
        speed: of its memory, bytes per second.
    """
    decoder, config = model.language_model, model.config
    below = [
        decoder.per_layer_model_projection,
        decoder.altup_projections,
        *decoder.layers[: config.text.first_shared_layer],
    ]
    hearing = [model.audio_tower, model.embed_audio.embedding_projection]
    nbytes = sum(_nbytes(part) for part in (*below, *hearing))
    # The encoder computes several frames for a soft token, the decoder one position.
    frames = config.audio.conf_reduction_factor
    multiplied = sum(map(_numel, below)) + frames * sum(map(_numel, hearing))
    return nbytes / speed / TOKEN_SECONDS, 2 * BATCH * multiplied / flops_per_second() / TOKEN_SECONDS


def _nbytes(part: nn.Module) -> int:
    """Bytes of weights that are on the device: a step reads all of them."""
    return sum(parameter.nbytes for parameter in part.parameters() if parameter.is_cuda)


def _numel(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def flops_per_second() -> float:
    """How fast large matrices in bfloat16 are multiplied."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: a @ b)


def bytes_per_second() -> float:
    """How fast memory is read: a copy reads and writes every byte."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source))


def _best_seconds(run: Callable[[], object]) -> float:
    return min(seconds_of(run, torch.device("cuda")) for _ in range(6))


class ScriptedTranslator:
    """Asks for the work that :class:`~pipeline.translation.SpeechTranslator` would, whatever the answers.

    Args:
        model: whose decoder to use.
        pool: as there.
    """

    def __init__(self, model: Gemma3n, pool: KVPool) -> None:
        self._model, self._pool = model, pool
        self._rate = TOKENS_PER_WORD * WORDS_PER_SECOND * TOKEN_SECONDS
        # How much longer a translation is than its transcript.
        self._ratio = _words_of_translations()
        self._utterance = -1
        self._start = 0.0
        self._heard = self._said = self._translated = 0
        self._ahead = False
        self._pending: list[torch.Tensor] = []

    def steps(self, event: SpeechEvent) -> Generator[Segment, list[int], list[Event]]:
        """As there; what comes of it are final translations without text."""
        if isinstance(event, SpeechStarted):
            self._utterance, self._start = self._utterance + 1, event.time
            self._heard = self._said = self._translated = 0
            self._cache = self._model.new_cache(self._pool, 1024)
            self._before = _ids(self._model, INSTRUCTION)
            self._pending = []
            self._ahead = False
        elif isinstance(event, SpeechHeard):
            self._ahead = False
            for token in torch.from_numpy(event.tokens).split(1):
                self._pending.append(token)
                self._heard += 1
                if len(self._pending) == INTERVAL:
                    yield from self._hypothesis()
        elif isinstance(event, SpeechPaused):
            yield from self._ahead_of_end(torch.from_numpy(event.tokens))
        elif isinstance(event, SpeechEnded):
            if not self._ahead:
                yield from self._hypothesis()
            about = {"utterance": self._utterance, "start": self._start, "end": event.time - event.margin}
            final = {"target": "en", "stable": "", "tentative": "", "final": True}
            return [Translation(audio_time=event.audio_time, **about, **final)]
        return []

    def _ahead_of_end(self, tokens: torch.Tensor) -> Generator[Segment, list[int], None]:
        """What the utterance would end with, on a branch: if it goes on, nothing has happened."""
        cache, before, pending = self._cache, self._before, self._pending
        counts = self._heard, self._said, self._translated
        self._cache = cache.fork()
        self._pending = [*pending, *tokens.split(1)] if len(tokens) else pending
        self._heard += len(tokens)
        yield from self._hypothesis()
        self._cache, self._before, self._pending = cache, before, pending
        self._heard, self._said, self._translated = counts
        self._ahead = True

    def _hypothesis(self) -> Generator[Segment, list[int], None]:
        soft = [self._model.config.audio_token_id] * len(self._pending)
        audio = torch.cat(self._pending) if self._pending else None
        pending, self._before, self._pending = [*self._before, *soft], [], []
        end = self._cache.length + len(pending)
        ids = [*pending, *_ids(self._model, BEHIND + self._said)]
        yield Segment(self._cache, ids, max(1, self._said), audio)
        branch = self._cache.fork()
        self._cache.truncate(end)
        said = round(self._heard * self._rate)
        for _ in range(said - self._said + REDECODED):
            yield Segment(branch, _ids(self._model, 1), 1)
        self._said = said
        yield Segment(branch, _ids(self._model, LABEL + self._translated), max(1, self._translated))
        translated = round(said * self._ratio)
        for _ in range(translated - self._translated + REDECODED):
            yield Segment(branch, _ids(self._model, 1), 1)
        self._translated = translated


def _words_of_translations() -> float:
    """Words of English for one of Spanish in the held-out sentences."""
    with gzip.open(HELD_OUT, "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").split("\t") for line in file]
    return sum(len(pair[1].split()) for pair in pairs) / sum(len(pair[0].split()) for pair in pairs)


def _ids(model: Gemma3n, count: int) -> list[int]:
    # Not torch's, which takes longer for one than a stream's share of a step.
    return [randrange(10, model.config.text.vocab_size_per_layer_input) for _ in range(count)]


def sound(answer: Any) -> Any:
    """An answer or a result, or the error that came instead, raised."""
    if isinstance(answer, Exception):
        raise answer
    return answer
