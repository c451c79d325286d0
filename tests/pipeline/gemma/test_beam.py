"""Beam search against all texts that there are, against greedy decoding, and in what it must not do."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.batching import run_alone
from pipeline.config import TextConfig
from pipeline.gemma import beam
from pipeline.gemma.bias import Bias, Pull, Terms
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.greedy import Segment, greedy

CONFIG = TextConfig.from_dict(
    {"num_hidden_layers": 1, "num_kv_shared_layers": 0, "layer_types": ["full_attention"], "head_dim": 2}
)
START, STOP = 9, 0


class Told:
    """A model that is told how likely what is behind a text: a function of the text to weights by token."""

    def __init__(self, weights):
        self.weights = weights
        self.texts = {}
        self.passes = 0

    def __call__(self, works):
        self.passes += 1
        return [
            [self._take(one) for one in work] if isinstance(work, tuple) else self._take(work)
            for work in works
        ]

    def _take(self, segment):
        cache = segment.cache
        # A fork is a sequence of its own, known by the blocks that it shares until it has been told more.
        text = (*self.texts.get(id(cache), ()), *segment.token_ids)
        self.texts[id(cache)] = text
        cache.reserve(len(segment.token_ids))
        cache.advance(len(segment.token_ids))
        odds = self.odds(text)
        if segment.ranking is not None:
            best = sorted(odds.items(), key=lambda item: -item[1])[: segment.ranking.most]
            segment.ranking.likeliest[:] = best
        return [max(odds, key=odds.get)]

    def odds(self, text):
        weights = self.weights(text)
        total = sum(weights.values())
        return {token: math.log(weight / total) for token, weight in weights.items()}


class Forking(KVCache):
    """A sequence whose forks are known to the model that is told."""

    model: Told

    def fork(self):
        twin = super().fork()
        twin.model = self.model
        self.model.texts[id(twin)] = self.model.texts.get(id(self), ())
        return twin


def searched(model, beams, most=20, stop_ids=(STOP,)):
    cache = Forking(KVPool(CONFIG, torch.float32, torch.device("cpu")), 100)
    cache.model = model
    first = beam.ranking(beams, stop_ids)

    def work():
        yield Segment(cache, [START], 1, ranking=first)
        return (yield from beam.search(cache, first, most, stop_ids, beams))

    ids, found = run_alone(work(), model)
    assert cache.length == 1
    assert found.length == 1 + len(ids)
    assert model.texts[id(found)] == (START, *ids)
    return ids


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=40, max_size=40),
    length=st.integers(1, 3),
)
def test_with_room_for_all_texts_the_likeliest_is_found(weights, length):
    """Of texts that are all of one length, so that none has ended before the others are known."""
    numbers = {
        text: weights[3 * at : 3 * at + 3]
        for at, text in enumerate(
            text for count in range(length) for text in itertools.product((1, 2, 3), repeat=count)
        )
    }

    def behind(text):
        said = text[1:]
        return dict(zip((1, 2, 3), numbers[said], strict=True)) if len(said) < length else {STOP: 1.0}

    model = Told(behind)
    odds = {
        text: sum(model.odds((START, *text[:at]))[text[at]] for at in range(length))
        for text in itertools.product((1, 2, 3), repeat=length)
    }
    best, second = sorted(odds.values())[-1:-3:-1]
    assume(best - second > 1e-9)

    assert odds[tuple(searched(Told(behind), 27))] == pytest.approx(best)


def test_what_begins_less_likely_may_be_likelier_in_all():
    """Greedy decoding goes where the first word is likelier, and finds nothing likely there."""

    def behind(text):
        match text[1:]:
            case ():
                return {1: 0.6, 2: 0.4}
            case (1,):
                return {3: 0.3, 4: 0.3, 5: 0.4}
            case (2,):
                return {6: 0.9, 7: 0.1}
        return {STOP: 1.0}

    assert searched(Told(behind), 1) == [1, 5]
    assert searched(Told(behind), 2) == [2, 6]


@pytest.mark.parametrize("beams", [1, 4])
def test_whether_anything_is_said_the_first_token_decides(beams):
    """A text of certain words behind an unlikely one has a higher mean than an end that is likelier."""

    def behind(text):
        silent = {STOP: 0.51, 1: 0.49} if quiet else {STOP: 0.49, 1: 0.51}
        return silent if text == (START,) else {STOP: 0.2, 1: 0.8} if len(text) < 4 else {STOP: 1.0}

    quiet = True
    assert searched(Told(behind), beams) == []
    quiet = False
    assert searched(Told(behind), beams)


def test_no_text_is_followed_into_a_rut():
    """However likely it is to say the same again."""

    def behind(text):
        return {1: 0.9, STOP: 0.02, 2: 0.08}

    ids = searched(Told(behind), 3, most=60)

    assert all(len(list(run)) < beam.LEAST_REPEATED for token, run in itertools.groupby(ids))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("most", [0, 1, 5])
def test_no_more_than_allowed_is_generated(beams, most):
    words = iter(range(10, 1_000))

    def behind(text):
        return {next(words): 0.5, next(words): 0.5}

    model = Told(behind)

    assert len(searched(model, beams, most)) == most
    assert model.passes == 1 + most


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_is_greedy_decoding(babbler, seed):
    """Of a real model of random weights, in which both sequences go on alike."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 200, (12,), generator=generator).tolist()
    stop_ids = {*torch.randint(10, 200, (40,), generator=generator).tolist()}
    greedily = babbler.new_cache()
    expected = run_alone(greedy(greedily, ids, 7, stop_ids), babbler.step)
    cache, first = babbler.new_cache(), beam.ranking(1, stop_ids)

    def work():
        yield Segment(cache, ids, 1, ranking=first)
        return (yield from beam.search(cache, first, 7, stop_ids, 1))

    found, end = run_alone(work(), babbler.step)

    assert found == expected
    assert end.length == greedily.length
    ((after,), (likewise,)) = babbler.step([Segment(end, [5], 1)]), babbler.step([Segment(greedily, [5], 1)])
    assert after == likewise


@pytest.mark.parametrize("beams", [1, 4])
def test_a_text_is_drawn_to_terms_as_in_greedy_decoding(babbler, beams):
    """Even of words that a model of random weights would not say."""
    term = [*map(ord, "Zyx")]
    bias = Bias((Terms([term], [term], Pull(50.0, 100.0, once=True)),))
    cache, first = babbler.new_cache(), beam.ranking(beams, ())

    def work():
        yield Segment(cache, [5, 6, 7], 1, bias=bias, ranking=first)
        return (yield from beam.search(cache, first, 8, (), beams, bias=bias))

    ids, _ = run_alone(work(), babbler.step)

    assert ids[:3] == term
    assert len(ids) == 8


def test_a_search_holds_no_blocks_when_it_is_over(babbler):
    pool = babbler.new_pool()
    cache, first = babbler.new_cache(pool), beam.ranking(4, {3})

    def work(cache):
        yield Segment(cache, [5, 6, 7], 1, ranking=first)
        return (yield from beam.search(cache, first, 20, {3}, 4))

    ids, end = run_alone(work(cache), babbler.step)
    assert ids
    del end, cache

    assert all(blocks.taken == 0 for blocks in pool.kinds.values())
