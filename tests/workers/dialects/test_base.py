"""One text to which is only added, out of utterances."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.wire.events import Transcript as Said
from workers.dialects.base import Transcript, primary


def said(utterance, stable, *, final=False):
    return Said(utterance=utterance, start=0.0, end=1.0, stable=stable, tentative=" and more", final=final)


def added(language, *events):
    transcript = Transcript(language)
    return [transcript.add(event) for event in events]


def test_only_stable_text_is_added_and_only_once():
    events = [
        said(0, ""),
        said(0, "No"),
        said(0, "No"),
        said(0, "No puedo."),
        said(0, "No puedo.", final=True),
    ]

    assert added("es", *events) == ["", "No", "", " puedo.", ""]


def test_a_space_stands_between_utterances():
    assert added("es", said(0, "Hola.", final=True), said(1, "", final=True), said(2, " Adiós.")) == [
        "Hola.",
        "",
        " Adiós.",
    ]


def test_the_language_that_was_detected_decides():
    chinese = replace(said(1, "你好。", final=True), language="zh")

    assert added("auto", said(0, "Hola.", final=True), chinese, said(2, "Adiós."), chinese) == [
        "Hola.",
        "你好。",
        " Adiós.",
        "你好。",
    ]


def test_and_none_where_none_is_written():
    assert added("zh-CN", said(0, "你好。", final=True), said(1, "再见。")) == ["你好。", "再见。"]


@pytest.mark.parametrize("locale", ["es", "es-ES", "es_ES", "ES", "es-419"])
def test_the_language_of_a_locale(locale):
    assert primary(locale) == "es"
