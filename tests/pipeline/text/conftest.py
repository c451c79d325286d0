"""Text to make subtitles of, and how it is measured here."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import strategies as st

NO_BREAK = "\u00a0\u2007\u202f"

SAMPLES = [
    "a", "to", "word", "Name", "12", "000", "%", "end.", "and,", "«Oui", "non»", "l'été", "na\u0308chste",
    "<b>", "&amp;", "-->", "x" * 50, "two\u00a0words", "كلمة", "שלום", "ภาษาไทย", "한국어", "漢字かな",
    "「引用」。", "っー", "\u00a0", "👩‍👩‍👧", "👍🏽", "\u200f", "\0", "\ufffe",
]  # fmt: skip

words = st.lists(st.sampled_from(SAMPLES), max_size=40)
texts = words.map(" ".join) | words.map("".join) | st.text(max_size=200)
"""Texts that are likely to be difficult, and any at all."""

spaced = st.lists(st.text("abcdé.,!ñ한ق", min_size=1, max_size=20), max_size=60)
"""Words of scripts with spaces, none too long for a line."""


def squeezed(text):
    """A text without blanks and control characters: what must come through unchanged."""
    return "".join(
        char
        for char in text
        if char in NO_BREAK or not (char.isspace() or unicodedata.category(char) == "Cc")
    )


def wide(text):
    """The columns of a text."""
    narrow = sum(unicodedata.category(char) not in ("Mn", "Me", "Cf") for char in text)
    return narrow + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


@pytest.fixture(scope="session", name="talk")
def _talk():
    """A quarter of an hour of English, as (seconds, text) of each word, at 12 characters a second."""
    sentence = "This is what one of the speakers said, and then nobody knew what to say about it. "
    words = (sentence * 130).split()
    time, spoken = 0.0, []
    for word in words:
        time += (len(word) + 1) / 12
        spoken.append((time, word))
    return spoken
