"""What decoding is drawn to: the same as by comparing all terms at every token, with a draft or without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import run_alone
from pipeline.config import TextConfig
from pipeline.gemma.bias import RENDERED, SPELLED, Bias, Biases, Pull, Terms, choose
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.greedy import greedy

CONFIG = TextConfig.from_dict(
    {"num_hidden_layers": 1, "num_kv_shared_layers": 0, "layer_types": ["full_attention"], "head_dim": 2}
)
WEAK, STRONG = Pull(1.0, 3.0), Pull(2.0, 5.0, once=True)
TOKENS = 4

IDS = st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=4)
SPELLINGS = st.lists(IDS, max_size=4)
TERMS = st.lists(
    st.tuples(SPELLINGS, SPELLINGS, st.sampled_from([WEAK, STRONG]), st.integers(1, 2)), max_size=2
)
"""Spellings in the midst of a text and at its beginning, and how often these terms stand among all."""


def amounts(terms, text):
    """What each token may get behind a text, by comparing everything."""
    found = set()
    for within, opening, pull, times in terms:
        places = [(ids, begin) for ids in within for begin in range(len(text) + 1)]
        places += [(ids, 0) for ids in opening]
        ends = {begin + len(ids) for ids, begin in places if text[begin : begin + len(ids)] == ids}
        if pull.once and len(ends) >= times:
            continue
        for ids, begin in places:
            said = text[begin:]
            if len(said) < len(ids) and ids[: len(said)] == said:
                found.add((ids[len(said)], pull.go_on if said else pull.begin))
    return found


def best(logits, terms, text):
    """The token that is chosen behind a text, by comparing everything."""
    lifted = list(logits)
    for token, bonus in amounts(terms, text):
        lifted[token] = max(lifted[token], logits[token] + bonus)
    if max(lifted) == max(logits):
        return logits.index(max(logits))
    return lifted.index(max(lifted))


def drawing(terms):
    return Bias(
        tuple(one for within, opening, pull, times in terms for one in [Terms(within, opening, pull)] * times)
    )


@given(TERMS, st.lists(st.integers(0, TOKENS - 1), max_size=8))
def test_a_text_is_drawn_to_what_its_end_may_be_the_beginning_of(terms, text):
    ids, bonus = drawing(terms).behind(text).drawn()

    assert set(zip(ids.tolist(), bonus.tolist(), strict=True)) == amounts(terms, text)


@given(
    TERMS,
    st.lists(st.integers(0, TOKENS - 1), max_size=5),
    st.lists(st.integers(-6, 6), min_size=TOKENS, max_size=TOKENS),
    st.booleans(),
)
def test_the_best_is_chosen_of_what_is_likely_enough(terms, text, logits, beside):
    """Also beside a text that is drawn nowhere."""
    rows = torch.tensor([logits, logits], dtype=torch.float32)
    chosen = choose(rows, [drawing(terms).behind(text) if beside or terms else None, None])

    assert chosen == [best(logits, terms, text), logits.index(max(logits))]


class Speaking:
    """A model whose logits depend on the last two tokens; it counts its passes."""

    def __init__(self, seed):
        self._table = np.random.default_rng(seed).integers(-3, 4, (TOKENS + 1, TOKENS + 1, TOKENS))
        self._ids = []
        self.passes = 0

    def __call__(self, segments):
        answers = []
        for segment in segments:
            self.passes += 1
            del self._ids[segment.cache.length :]
            segment.cache.reserve(len(segment.token_ids))
            segment.cache.advance(len(segment.token_ids))
            self._ids += segment.token_ids
            ends = range(len(self._ids) - segment.keep + 1, len(self._ids) + 1)
            logits = [self.logits(self._ids[:end]) for end in ends]
            rows = torch.tensor(logits, dtype=torch.float32).reshape(-1, TOKENS)
            answers.append(choose(rows, segment.biases()) if segment.keep else [])
        return answers

    def logits(self, ids):
        return self._table[tuple([TOKENS, TOKENS, *ids][-2:])].tolist()


@given(TERMS, st.integers(0, 2**32), st.lists(st.integers(0, TOKENS - 1), max_size=8), IDS)
def test_with_a_draft_and_without_the_text_is_the_same(terms, seed, draft, before):
    """And it is what comparing everything gives, one token after the other."""

    def decode(guess, bias):
        model = Speaking(seed)
        cache = KVCache(KVPool(CONFIG, torch.float32, torch.device("cpu")), 100)
        text = run_alone(greedy(cache, before, 8, {0}, guess, bias=bias), model)
        return text, model.passes

    model, expected = Speaking(seed), []
    while len(expected) < 8 and (token := best(model.logits([*before, *expected]), terms, expected)):
        expected.append(token)

    assert decode([], drawing(terms))[0] == expected
    assert decode(draft, drawing(terms))[0] == expected
    assert decode(expected, drawing(terms)) == (expected, 1)


@given(
    TERMS,
    st.lists(st.integers(-6, 6), min_size=TOKENS, max_size=TOKENS),
    st.frozensets(st.integers(0, TOKENS - 1), max_size=TOKENS - 1),
)
def test_what_is_barred_is_not_chosen_at_once(terms, logits, barred):
    """Neither where it is likeliest nor where a term draws to it; behind that and beside it, it may be."""
    bias = replace(drawing(terms), barred=barred)
    rows = torch.tensor([logits, logits], dtype=torch.float32)
    allowed = [-np.inf if token in barred else value for token, value in enumerate(logits)]
    likeliest = logits.index(max(logits))

    assert choose(rows, [bias, None]) == [best(allowed, terms, []), likeliest]
    assert rows.tolist() == [logits, logits]
    assert choose(rows[:1], [bias.behind([0])]) == [best(logits, terms, [0])]


def test_a_term_that_is_far_from_what_is_said_is_left_alone():
    bias = drawing([([[2, 3]], [], WEAK, 1)])
    near, far = [2.0, 0.0, 1.5, 0.0], [3.0, 0.0, 1.5, 0.0]

    assert choose(torch.tensor([near, far]), [bias, bias]) == [2, 0]


@pytest.mark.parametrize("empty", [[], [{"it": "gatto"}]])
def test_without_a_term_of_its_language_a_text_is_drawn_nowhere(babbler, empty):
    biases = Biases(empty, babbler.tokenizer.encode)

    assert biases.transcript("es") is None
    assert biases.translation("es", "en", "El gato.") is None


def test_terms_draw_in_their_languages_and_renderings_where_they_are_said(babbler):
    encode = babbler.tokenizer.encode
    biases = Biases(["Belén", {"es": "gato", "en": "tomcat"}], encode)

    def starts(bias):
        ids, bonus = bias.behind(encode(" .")).drawn()
        return set(zip(ids.tolist(), bonus.tolist(), strict=True))

    def first(pull, *terms):
        forms = [form for term in terms for form in (term, term[0].upper() + term[1:])]
        return {(encode(f" {form}")[0], pull.begin) for form in forms}

    assert starts(biases.transcript("es")) == first(SPELLED, "Belén", "gato")
    assert starts(biases.transcript("fr")) == first(SPELLED, "Belén")
    assert starts(biases.translation("es", "en", "El perro.")) == first(SPELLED, "Belén")
    assert starts(biases.translation("es", "en", "El Gato.")) == first(SPELLED, "Belén") | first(
        RENDERED, "tomcat"
    )
