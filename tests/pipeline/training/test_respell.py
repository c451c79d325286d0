"""Spanish for Italian readers: the sounds stay, the stress is written, what cannot be said is refused."""

from __future__ import annotations

import re

import pytest

from pipeline.training.respell import italian_spelling
from pipeline.training.text import Pair


@pytest.mark.parametrize(
    ("spanish", "italian"),
    [
        ("hola", "òla"),
        ("queso", "chèsso"),
        ("chico", "cìco"),
        ("muchacha", "muciàcia"),
        ("guerra", "ghèrra"),
        ("agua", "àgua"),
        ("pingüino", "pinguìno"),
        ("niño", "nìgno"),
        ("calle", "càglie"),
        ("allí", "aglì"),
        ("cena", "sèna"),
        ("zapato", "sapàto"),
        ("casa", "càssa"),
        ("examen", "ecsàmen"),
        ("vivo", "bìbo"),
    ],
)
def test_a_word_keeps_its_sounds(spanish: str, italian: str):
    assert italian_spelling(spanish) == italian


@pytest.mark.parametrize(
    ("word", "stressed"),
    [
        ("camino", "ì"),
        ("caminan", "ì"),
        ("caminar", "à"),
        ("caminó", "ò"),
        ("lápiz", "à"),
        ("miércoles", "è"),
        ("ciudad", "à"),
        ("río", "ì"),
        ("siempre", "è"),
        ("también", "è"),
    ],
)
def test_the_stress_is_where_the_orthography_puts_it(word: str, stressed: str):
    spelled = italian_spelling(word)

    assert re.findall("[àèìòù]", spelled) == [stressed]


@pytest.mark.parametrize("sentence", ["El jefe duerme.", "La gente.", "Son las 8.", "Dice 日本.", "¿"])
def test_what_italian_cannot_say_is_refused(sentence: str):
    assert italian_spelling(sentence) is None


def test_every_word_but_and_is_stressed_once(spanish: list[Pair]):
    spelled = [italian_spelling(pair.source) for pair in spanish]
    read = [(pair.source, words) for pair, words in zip(spanish, spelled, strict=True) if words]

    # A voice that had to refuse most of the text would be of no use.
    assert len(read) > len(spanish) / 3
    for original, words in read:
        assert re.fullmatch(r"[a-zàèìòù .,;:!?'%$€/&-]+", words), (original, words)
        for word in re.findall(r"[a-zàèìòù]+", words):
            stressed = word != "i" and re.search("[aeiouàèìòù]", word) is not None
            assert len(re.findall("[àèìòù]", word)) == stressed, (original, word)
