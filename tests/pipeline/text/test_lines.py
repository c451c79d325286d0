"""Text into pieces and lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.lines import arrange, columns, ends_in_blank, joined, pieces
from tests.pipeline.text.conftest import spaced, squeezed, texts, wide


def laid_out(text, language="en", width=42, lines=2, ended=True):
    blocks = arrange(pieces(text, width), width=width, lines=lines, language=language, ended=ended)
    return [[joined(line) for line in block] for block in blocks]


@given(texts)
def test_columns(text):
    assert columns(text) == wide(text)


def test_wide_characters_take_two_columns_and_marks_none():
    assert columns("abc") == 3
    assert columns("漢字") == 4
    assert columns("。") == 2
    assert columns("e\u0301\u200d") == 1


@given(texts, st.integers(2, 42))
def test_pieces_are_the_text(text, width):
    cut = pieces(text, width)

    assert squeezed("".join(cut)) == squeezed(text)
    assert all(piece.strip(" ") and " " not in piece[1:] for piece in cut)
    assert all(wide(piece.removeprefix(" ")) <= width for piece in cut)


@given(spaced)
def test_pieces_are_words_where_these_have_spaces_between_them(words):
    assert pieces(" ".join(words), 42) == [" " * (i > 0) + word for i, word in enumerate(words)]


@given(texts, texts, st.integers(2, 42))
def test_pieces_do_not_depend_on_how_a_text_is_cut(one, two, width):
    """The last piece is what may still change."""
    *sure, last = pieces(one, width) or [""]
    last += " " if ends_in_blank(one) else ""

    assert sure + pieces(last + two, width) == pieces(one + two, width)


def test_words_keep_their_space():
    assert pieces("one  two\n three ", 42) == ["one", " two", " three"]
    assert pieces(" one", 42) == [" one"]
    assert pieces("", 42) == pieces(" \t", 42) == []


def test_no_break_spaces_do_not_part_words():
    assert pieces("25\u00a0000 people", 42) == ["25\u00a0000", " people"]
    assert pieces("漢\u202f字", 42) == ["漢\u202f字"]


def test_chinese_and_japanese_are_cut_between_characters():
    assert pieces("你好、世界。", 42) == ["你", "好、", "世", "界。"]
    assert pieces("「ちょっと」ね", 42) == ["「ちょっ", "と」", "ね"]
    assert pieces("ラーメン abc漢", 42) == ["ラー", "メ", "ン", " abc", "漢"]


def test_korean_arabic_and_hebrew_are_cut_between_words():
    assert pieces("안녕하세요 여러분", 42) == ["안녕하세요", " 여러분"]
    assert pieces("مرحبا بكم", 42) == ["مرحبا", " بكم"]
    assert pieces("שלום לכם", 42) == ["שלום", " לכם"]


def test_emoji_stay_whole():
    assert pieces("👩‍👩‍👧👍🏽", 42) == ["👩‍👩‍👧", "👍🏽"]


def test_a_word_that_no_line_can_hold_is_cut_at_its_end():
    assert pieces("a " + "x" * 100, 42) == ["a", " " + "x" * 42, "x" * 42, "x" * 16]
    assert pieces("e\u0301" * 5, 2) == ["e\u0301e\u0301", "e\u0301e\u0301", "e\u0301"]


@given(texts, st.integers(2, 42), st.integers(1, 3), st.booleans())
def test_every_piece_is_in_one_line_and_no_line_is_too_long(text, width, lines, ended):
    cut = pieces(text, width)
    blocks = arrange(cut, width=width, lines=lines, language="es", ended=ended)

    assert [piece for block in blocks for line in block for piece in line] == cut
    assert all(1 <= len(block) <= lines for block in blocks)
    assert all(line and wide(joined(line)) <= width for block in blocks for line in block)


def test_what_fits_on_a_line_is_not_broken():
    assert laid_out("Yes. I think that we should go, and now.") == [
        ["Yes. I think that we should go, and now."]
    ]


def test_two_lines_are_about_equally_long():
    assert laid_out("words words words words words words words words words") == [
        ["words words words words words", "words words words words"]
    ]


def test_lines_break_after_punctuation():
    assert laid_out("When nobody wanted to say it, he finally said it all.") == [
        ["When nobody wanted to say it,", "he finally said it all."]
    ]


def test_lines_break_before_prepositions_and_not_behind_articles():
    assert laid_out("The people who live here know more about the history of houses.") == [
        ["The people who live here know more", "about the history of houses."]
    ]
    assert laid_out("Los que viven aquí saben mucho más de la historia antigua", "es") == [
        ["Los que viven aquí saben mucho más", "de la historia antigua"]
    ]


def test_names_and_numbers_stay_whole():
    assert laid_out("yesterday evening she said that my Maria Silva came to see them") == [
        ["yesterday evening she said", "that my Maria Silva came to see them"]
    ]
    assert laid_out("somebody counted up to twelve and 25 000 people stood there then") == [
        ["somebody counted up to twelve", "and 25 000 people stood there then"]
    ]


def test_a_block_ends_where_a_sentence_does():
    text = (
        "This is the first of the two sentences here. This one is longer, so that it takes both of its lines."
    )

    assert laid_out(text) == [
        ["This is the first", "of the two sentences here."],
        ["This one is longer,", "so that it takes both of its lines."],
    ]


def test_the_last_line_of_a_text_that_goes_on_may_be_short():
    text = "words words words words words words words words"

    assert laid_out(text, ended=False)[0] == ["words words words words words words words", "words"]


def test_if_all_else_is_equal_the_first_block_is_full():
    text = (
        "Nobody wanted to say it, which was said, he went away and never came back, but nobody followed him,"
    )

    assert [len(block) for block in laid_out(text)] == [2, 1]
