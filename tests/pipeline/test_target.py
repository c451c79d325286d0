"""Translations behind a transcript: what is due is not blank, and costs no more memory than what is not."""

from __future__ import annotations

import pytest

from pipeline.batching import run_alone
from pipeline.config import PolicyConfig
from pipeline.gemma.greedy import Segment
from pipeline.running_text import RunningText
from pipeline.target import is_blank, translate_into
from tests.pipeline.oracle import OracleCache

TRANSCRIPT = "Nadie sabe por qu\u00e9."
LONGEST = 6


def translated(model, text, *, due, ids=None, watched=False, beams=1):
    """The hypothesis behind a transcript, the most blocks held meanwhile, and the passes it took."""
    pool = model.new_pool()
    ids = model.prompt.words(TRANSCRIPT) if ids is None else ids
    branch, held, passes = model.new_cache(pool, 200), [], 0

    def step(segments):
        nonlocal passes
        passes += 1
        answers = model.step(segments)
        held.append(sum(blocks.taken for blocks in pool.kinds.values()))
        return answers

    def work():
        yield Segment(branch, [*model.prompt.after_audio(), *ids], 0)
        return (
            yield from translate_into(
                "en",
                text,
                model.prompt,
                branch,
                longest=LONGEST,
                heard=20,
                due=due,
                reach=list(range(len(ids))) if watched else None,
                ffn_widths=None,
                beams=beams,
            )
        )

    hypothesis = run_alone(work(), step)
    assert branch.length == len(model.prompt.after_audio()) + len(ids)
    return hypothesis, max(held), passes


def new(model, kind="agreement", stable=""):
    text = RunningText(model.prompt, model.tokenizer, PolicyConfig(kind), steady=True)
    text.begin(stable, stable)
    return text


@pytest.fixture
def ends(babbler, monkeypatch):
    """Makes a model end where it would go on, behind what is given."""

    def end(given=""):
        text = new(babbler, stable=given)
        translated(babbler, text, due=False)
        first = text.ids[len(text.given)]
        stops = babbler.prompt.line_stop_ids | {first}
        monkeypatch.setattr(babbler.prompt, "line_stop_ids", stops)
        return stops

    return end


@pytest.mark.parametrize("watched", [False, True])
def test_a_translation_that_is_due_is_not_ended_before_it_has_begun(babbler, ends, watched):
    stops = ends()
    blank, held, _ = translated(babbler, new(babbler), due=False, watched=watched)
    text = new(babbler)
    said, held_anew, _ = translated(babbler, text, due=True, watched=watched)

    assert blank.text == ""
    assert not is_blank(said.text)
    assert text.ids[0] not in stops
    assert len(said.reach) == (len(said.text.split()) if watched else 0)
    # A few positions more than what is blank takes are in the same blocks.
    assert held_anew <= held + len(babbler.new_pool().kinds)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_not_blank_is_left_as_it_is(babbler, beams):
    due, idle = (translated(babbler, new(babbler), due=due, beams=beams) for due in (True, False))
    assert due == idle


@pytest.mark.parametrize("watched", [False, True])
def test_what_is_searched_for_is_not_ended_before_it_has_begun_either(babbler, ends, watched):
    ends()
    blank, said = (
        translated(babbler, new(babbler), due=due, watched=watched, beams=3)[0] for due in (False, True)
    )

    assert blank.text == ""
    assert not is_blank(said.text)


def test_behind_stable_text_a_translation_may_end(babbler, ends):
    """It is not blank."""
    ends("Nobody")
    text = new(babbler, stable="Nobody")
    said, _, passes = translated(babbler, text, due=True)

    assert (said.text, passes) == ("Nobody", 2)


def test_what_stood_in_place_of_words_does_not_come_again(babbler):
    mark, word = (babbler.tokenizer.encode(text)[0] for text in (".", "a"))
    (end,) = babbler.tokenizer.special("<end_of_turn>")
    label = babbler.prompt.translation_label("en")

    def step(segments):
        (segment,) = segments
        segment.cache.ids += segment.token_ids
        barred = segment.bias.barred if segment.bias else ()
        says = [mark, word] if segment.cache.ids == label else [end]
        return [[next(token for token in says if token not in barred)]]

    how = {"longest": LONGEST, "heard": 20, "reach": None, "ffn_widths": None, "beams": 1}
    (blank, said) = (
        run_alone(translate_into("en", new(babbler), babbler.prompt, OracleCache(), due=due, **how), step)
        for due in (False, True)
    )

    assert (blank.text, said.text) == (".", "a")


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        (" ", True),
        ("\u00bf...?", True),
        ("\u266a", True),
        ("S\u00ed", False),
        ("3", False),
        ("\u65e5", False),
    ],
)
def test_blank_is_what_has_no_letter_and_no_digit(text, blank):
    assert is_blank(text) == blank
