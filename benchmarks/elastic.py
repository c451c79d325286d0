"""What it costs to change the MatFormer sub-model of a running sequence, and whether drafting with one pays.

Used by :mod:`benchmarks.matformer`, which prints what is measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.clock import seconds_of
from pipeline.config import TextConfig
from pipeline.gemma.cache import KVCache
from pipeline.gemma.greedy import Segment
from pipeline.gemma.matformer import Widths
from pipeline.model import Gemma3n

STEPS = 32
"""Tokens of one measurement of speed."""

DRAFTED = 4
"""Tokens that a narrow sub-model drafts before the wide one looks at them."""

INTERVAL = 4
"""Soft tokens between two hypotheses of one utterance: 640 ms."""


@dataclass(frozen=True)
class Switch:
    """What a change of sub-model costs, in seconds.

    Attributes:
        step: of decoding one token.
        within: the same while every token is decoded in the other of two sub-models that share a KV group.
        prefill: computing the sequence anew, which a change to another group needs.
    """

    step: float
    within: float
    prefill: float


@dataclass(frozen=True)
class Drafting:
    """Seconds for one hypothesis of a running utterance, by where its draft comes from.

    Attributes:
        none: every token is decoded.
        previous: the hypothesis before is the draft, once.
        itself: behind that, a sub-model that is narrow above the sharing point drafts for the whole model.
        itself_free: the same if looking at these drafts took no time at all: the least it can come to.
        step_ratio: length of the narrow sub-model's step, that of the whole model's being 1.
    """

    none: float
    previous: float
    itself: float
    itself_free: float
    step_ratio: float


def narrow_above(config: TextConfig, widths: Sequence[int]) -> Widths:
    """The whole model below the sharing point, ``widths`` above it: a sub-model of the whole one's group."""
    own = config.first_shared_layer
    return (*config.intermediate_size[:own], *widths[own:])


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch runs one, as a worker does that shares its cores."""
    most = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(most)


@one_thread()
def step_seconds(
    model: Gemma3n, prompt: Sequence[int], sub_models: Sequence[Widths | None], repeat: int
) -> list[float]:
    """Median seconds of a decode step of one sequence in each sub-model, measured in turns."""
    times: list[list[float]] = [[] for _ in sub_models]
    pool, device = model.new_pool(), model.language_model.embed_tokens.weight.device
    for turn in range(repeat + 1):
        for widths, taken in zip(sub_models, times, strict=True):
            cache = model.new_cache(pool)
            model.extend(cache, prompt, ffn_widths=widths)

            def decode(cache: KVCache = cache, widths: Widths | None = widths) -> None:
                for _ in range(STEPS):
                    model.step([Segment(cache, [prompt[-1]], 1, None, widths)])

            seconds = seconds_of(decode, device)
            if turn:  # in the first one things are compiled and recorded
                taken.append(seconds / STEPS)
    return [statistics.median(taken) for taken in times]


@one_thread()
def switch(model: Gemma3n, prompt: Sequence[int], narrow: Widths, other: Widths, repeat: int) -> Switch:
    """Measure changes between sub-models.

    Args:
        model: what to measure.
        prompt: the sequence that is there when the change comes.
        narrow: a sub-model of the whole one's group.
        other: one of another group.
        repeat: how many times.
    """
    pair = (None, narrow)
    plain, mixed, prefill = [], [], []
    pool, device = model.new_pool(), model.language_model.embed_tokens.weight.device
    for turn in range(repeat + 1):
        cache, again = model.new_cache(pool), model.new_cache(pool)
        model.extend(cache, prompt)
        model.extend(again, prompt)

        def steps(cache: KVCache, *used: Widths | None) -> None:
            for at in range(STEPS):
                model.step([Segment(cache, [prompt[-1]], 1, None, used[at % len(used)])])

        apart = [seconds_of(partial(steps, cache, widths), device) for widths in pair]
        together = seconds_of(partial(steps, again, *pair), device)
        anew = seconds_of(lambda: model.extend(model.new_cache(pool), prompt, ffn_widths=other), device)
        if turn:
            plain.append(statistics.mean(apart) / STEPS)
            mixed.append(together / STEPS)
            prefill.append(anew)
    return Switch(*(statistics.median(taken) for taken in (plain, mixed, prefill)))


@one_thread()
def drafting(
    model: Gemma3n, utterances: Sequence[Tensor], source: str, target: str, narrow: Widths
) -> Drafting:
    """Transcribe utterances while they grow, with drafts of each kind.

    Args:
        model: what decodes.
        utterances: soft tokens, [n, text_hidden] each.
        source: language that is spoken.
        target: language of the instruction.
        narrow: the sub-model that drafts, of the whole model's group.
    """
    prompt = model.prompt
    before, after = prompt.before_audio(source, target), prompt.after_audio()
    stop_ids, most = prompt.line_stop_ids, 48
    seconds = dict.fromkeys(("none", "previous", "itself", "looking"), 0.0)
    hypotheses = 0
    for tokens in utterances:
        previous: list[int] = []
        audio = model.new_cache()
        model.extend(audio, before)
        for begin in range(0, len(tokens), INTERVAL):
            piece = tokens[begin : begin + INTERVAL]
            model.extend(audio, [model.config.audio_token_id] * len(piece), piece)
            started = time.perf_counter()
            plain = model.greedy(audio.fork(), after, most, stop_ids)
            seconds["none"] += time.perf_counter() - started
            started = time.perf_counter()
            drafted = model.greedy(audio.fork(), after, most, stop_ids, previous)
            seconds["previous"] += time.perf_counter() - started
            started = time.perf_counter()
            itself, looking = _draft_itself(
                model, audio.fork(), after, most=most, stop_ids=stop_ids, previous=previous, narrow=narrow
            )
            seconds["itself"] += time.perf_counter() - started
            seconds["looking"] += looking
            if not plain == drafted == itself:
                raise RuntimeError("a draft has changed the result")
            previous, hypotheses = plain, hypotheses + 1
    wide, thin = step_seconds(model, [*before, *after], [None, narrow], 5)
    each = {name: total / max(1, hypotheses) for name, total in seconds.items()}
    return Drafting(
        each["none"], each["previous"], each["itself"], each["itself"] - each["looking"], thin / wide
    )


def _draft_itself(
    model: Gemma3n,
    cache: KVCache,
    after: Sequence[int],
    *,
    most: int,
    stop_ids: Collection[int],
    previous: Sequence[int],
    narrow: Widths,
) -> tuple[list[int], float]:
    """Decode greedily with drafts of the model's own behind the previous hypothesis.

    Returns:
        The output, and the seconds in which the whole model looked at the drafts.
    """
    looking = 0.0

    def look(ids: Sequence[int], draft: Sequence[int], widths: Widths | None = None) -> list[int]:
        """The longest part of a draft that is right, and what comes behind it."""
        (choices,) = model.step([Segment(cache, [*ids, *draft], len(draft) + 1, None, widths)])
        if isinstance(choices, Exception):
            raise choices
        right = next((at for at, token in enumerate(draft) if token != choices[at]), len(draft))
        cache.truncate(cache.length - len(draft) + right)
        return choices[: right + 1]

    said = look(after, previous[:most])
    while len(said) < most and not any(token in stop_ids for token in said):
        last, drafted = said[-1], []
        begin = cache.length
        while len(drafted) < DRAFTED:
            drafted += look([last if not drafted else drafted[-1]], [], narrow)
        cache.truncate(begin)
        started = time.perf_counter()
        said += look([last], drafted)
        looking += time.perf_counter() - started
    end = next((at for at, token in enumerate(said) if token in stop_ids), most)
    return said[: min(end, most)], looking
