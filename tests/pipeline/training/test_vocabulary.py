"""The tokenizer: Gemma's special tokens where the model looks for them, and text that comes back whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gemma.tokenizer import Tokenizer
from pipeline.training import vocabulary
from pipeline.training.vocabulary import AUDIO, HARD_TOKENS, SPECIAL, VISION
from tests.pipeline.training.conftest import RECIPE


@pytest.fixture(scope="module")
def tokenizer(built) -> Tokenizer:
    return Tokenizer(type(built.tokenizer).from_str(built.tokenizer.to_str()))


def test_special_text_vision_and_audio_tokens_follow_each_other(built):
    size = RECIPE.text_tokens

    assert [built.tokenizer.token_to_id(name) for name in SPECIAL] == list(range(len(SPECIAL)))
    assert [built.tokenizer.token_to_id(name) for name in VISION] == [size, size + 1]
    assert [built.tokenizer.token_to_id(name) for name in AUDIO] == [
        size + HARD_TOKENS,
        size + HARD_TOKENS + 1,
    ]
    assert built.tokenizer.get_vocab_size(with_added_tokens=True) == size + 2 * HARD_TOKENS


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_any_text_comes_back_and_is_made_of_text_tokens(tokenizer, sentence: str):
    ids = tokenizer.encode(sentence)

    assert tokenizer.decode(ids) == sentence
    assert all(len(SPECIAL) <= token < RECIPE.text_tokens for token in ids)


@given(st.lists(st.from_regex(r"[a-zñáéíóúçœû0-9¿?¡!.,]{1,8}", fullmatch=True), min_size=1, max_size=8))
def test_a_text_continued_by_words_is_tokenised_as_the_whole(tokenizer, words: list[str]):
    parts = [token for word in words for token in tokenizer.encode(f" {word}")]

    assert parts == tokenizer.encode("".join(f" {word}" for word in words))


@given(st.text("0123456789.,;:!?¿¡'\"-()", min_size=1))
def test_digits_and_punctuation_are_tokens_of_their_own(tokenizer, signs: str):
    assert all(len(tokenizer.decode([token])) == 1 for token in tokenizer.encode(signs))


def test_frequent_words_are_single_tokens(tokenizer):
    assert all(len(tokenizer.encode(word)) == 1 for word in (" Spanish", " French", " English", "\n", "\n\n"))


def test_too_little_text_is_an_error():
    with pytest.raises(ValueError, match=r"the text holds only \d+ of 5000 tokens"):
        vocabulary.train(["one", "two"], 5000)


def test_another_vocabulary_takes_over_what_it_shares_and_spells_the_rest(built):
    old = built.tokenizer
    new = vocabulary.train([" aguacero y los acantilados del señor"] * 50 + [" the river"] * 20, 300)
    rows = vocabulary.carried_over(old, new)

    assert len(rows) == new.get_vocab_size(with_added_tokens=True)
    shared = 0
    for token, id_ in new.get_vocab(with_added_tokens=True).items():
        if token in old.get_vocab(with_added_tokens=True):
            assert rows[id_] == [old.token_to_id(token)]
            shared += 1
        else:
            assert "".join(old.id_to_token(part) for part in rows[id_]) == token
    assert 270 < shared < len(rows)
