"""Captions show finals once, and on a terminal the running utterance."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pipeline.wire import events
from workers.captions import Captions


def about(stable, tentative="", *, final=False, start=0.0):
    return {
        "utterance": 0,
        "start": start,
        "end": start + 1,
        "stable": stable,
        "tentative": tentative,
        "final": final,
    }


def transcript(*text, language=None, **fields):
    return events.Transcript(**about(*text, **fields), language=language)


def translation(*text, **fields):
    return events.Translation(**about(*text, **fields), target="en")


EVENTS = [
    events.Ready(),
    transcript("Buenos", " día", start=61.25),
    translation("Good", tentative=" d", start=61.25),
    transcript("Buenos días.", final=True, start=61.25),
    translation("Good day.", final=True, start=61.25),
    transcript("", final=True, start=70.0),
    events.Error(code="bad_message", message="no", fatal=False),
    events.Done(),
]


def shown(received=EVENTS, source="es", **options):
    output = io.StringIO()
    with Captions(Console(file=output, width=80, **options), source) as captions:
        for event in received:
            captions.show(event)
    return output.getvalue()


def test_without_a_terminal_finals_are_printed_plainly():
    assert shown() == ("01:01.2  es  Buenos días.\n         en  Good day.\nbad_message: no\n")


def test_a_detected_language_is_named():
    said = [transcript("Hola", language="es", final=True), translation("Hello", final=True)]

    assert shown(said, "auto") == "00:00.0  es  Hola\n         en  Hello\n"


@pytest.mark.parametrize("source", ["auto", "es,en"])
def test_a_language_that_is_not_decided_yet_is_not_named(source):
    """The text stands where it will stand."""
    heard = [transcript("", "Hola"), transcript("Hola", " a", language="es"), transcript("Hola a todos.")]
    lines = shown(heard, source, force_terminal=True, color_system=None)

    assert source not in lines
    undecided, decided = (
        next(line for line in re.split(r"[\r\n]|\x1b\[\??\d*[A-Za-z]", lines) if text in line)
        for text in ("Hola", "Hola a")
    )
    assert (undecided.rstrip(), decided.rstrip()) == ("    Hola", "es  Hola a")


def test_on_a_terminal_the_running_utterance_is_shown():
    text = shown(force_terminal=True, color_system=None)

    assert "es  Buenos día" in text
    assert "en  Good d" in text
    assert text.count("Good day.") == 1
