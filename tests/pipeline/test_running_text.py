"""Token ids to text that has been shown: what is new, which tokens are which words, and no ruts."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import PolicyConfig
from pipeline.running_text import TOKEN_SECONDS, RunningText
from pipeline.text.stability import words

ANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def new(babbler, kind="agreement", **values):
    return RunningText(babbler.prompt, babbler.tokenizer, PolicyConfig(kind, **values))


def ids_of(babbler, text):
    return babbler.prompt.words(text)


def test_agreed_text_is_given_to_the_next_hypothesis(babbler):
    text = new(babbler, agreement=2)
    for said in ("el gato", "el gato come"):
        hypothesis = text.hypothesis(ids_of(babbler, said)[len(text.given) :], 4, None)
        state = text.show(hypothesis.text, text.judge(hypothesis))

    assert state == ("el gato", " come")
    assert text.given == ids_of(babbler, "el gato")
    assert text.room(100) == (100 - len(text.given), ids_of(babbler, "el gato come")[len(text.given) :])
    assert text.show("el gato come", 2) is None


def test_a_text_may_begin_with_words_that_have_been_shown(babbler):
    text = new(babbler, agreement=2)
    text.begin("el gato", "el gato come")

    assert (text.stable, text.tentative) == ("el gato", " come")
    hypothesis = text.hypothesis(ids_of(babbler, "el gato come pan")[len(text.given) :], 4, None)
    # The tentative words count as a first hypothesis.
    assert text.show(hypothesis.text, text.judge(hypothesis)) == ("el gato come", " pan")


def test_a_rut_is_not_shown_and_not_drafted(babbler):
    text = new(babbler)
    hypothesis = text.hypothesis(ids_of(babbler, "si la la la la la la la"), 4, None)

    assert hypothesis.text == "si la"
    assert text.room(100)[1] == ids_of(babbler, "si la")


def test_the_reach_of_a_word_is_that_of_its_last_audio(babbler):
    text = new(babbler, "attention")
    ids = ids_of(babbler, "extraordinario gato")
    reach = list(range(len(ids)))
    hypothesis = text.hypothesis(ids, 20, reach)

    first = len(ids_of(babbler, "extraordinario"))
    assert hypothesis.heard == 20 * TOKEN_SECONDS
    assert list(hypothesis.reach) == [first * TOKEN_SECONDS, len(ids) * TOKEN_SECONDS]


@ANY
@given(st.lists(st.text("abcdeñé.,日", min_size=1, max_size=9), min_size=1, max_size=8))
def test_every_word_has_tokens_in_order(babbler, said):
    text = new(babbler)
    joined = " ".join(said)
    text.begin("", joined)
    ids = text.ids
    spans = text.by_word(ids, range(len(ids)))

    assert len(spans) == len(words(joined))
    assert [first for first, _ in spans] == sorted(first for first, _ in spans)


@ANY
@given(st.lists(st.text("abcdeñé", min_size=1, max_size=9), min_size=1, max_size=8), st.data())
def test_the_tokens_of_the_first_words_are_those_of_their_text(babbler, said, data):
    text = new(babbler)
    text.begin("", " ".join(said))
    number = data.draw(st.integers(0, len(said)))
    count = text.count_tokens(number)

    assert babbler.tokenizer.decode(text.ids[:count]).strip() == " ".join(said[:number])
