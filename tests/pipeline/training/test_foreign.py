"""Phonemes of espeak-ng as phones of other languages."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.foreign import CZECH, FINNISH, segments
from pipeline.training.libraries import espeak

TABLES = {"czech": CZECH, "finnish": FINNISH}
Said = list[tuple[str, float, float, float]]


def said(scheme: str) -> Said:
    """Phone, seconds, seconds into it and Hz of each phone with a pitch."""
    found = re.findall(r"\((\S+) ([\d.]+) \(([\d.]+) (\d+)\)\)", scheme)
    return [(phone, float(length), float(at), float(hertz)) for phone, length, at, hertz in found]


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data(), pitch=st.floats(80, 250), seed=st.integers())
def test_phones_follow_the_phonemes(table: str, data: st.DataObject, pitch: float, seed: int):
    phones = TABLES[table]
    lengths = st.floats(0.04, 0.4)
    phonemes = data.draw(
        st.lists(st.tuples(st.sampled_from([*phones, "_", "_:"]), lengths), min_size=1, max_size=30)
    )
    spoken = said(segments(phonemes, phones, pitch, Random(seed)))

    assert [phone for phone, *_ in spoken] == [
        phone for name, _ in phonemes if name in phones for phone in phones[name].split()
    ]
    wanted = sum(seconds for name, seconds in phonemes if phones.get(name))
    assert sum(length for _, length, _, _ in spoken) == pytest.approx(wanted, abs=0.001 * len(spoken))
    for _, length, at, hertz in spoken:
        assert 0 <= at <= length
        assert 0.6 * pitch < hertz < 1.4 * pitch


def test_a_phoneme_without_a_phone_is_refused():
    assert segments([("a", 0.1), ("click", 0.1)], CZECH, 100.0, Random(0)) is None


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("accent", ["es", "es-419"])
def test_spanish_is_covered(table: str, accent: str):
    text = (
        "¿Dónde está la niña? El rey Carlos llegó en guerra cuando yo tenía cincuenta años; jugábamos al "
        "ajedrez, y hacía muchísimo viento. Hay aire en Europa, oigo ciudad, doy agua, reina, cuidado, show."
    )

    phonemes = espeak().phonemes(text, accent, rate=150)
    assert len(phonemes) > 130
    assert segments(phonemes, TABLES[table], 100.0, Random(0)) is not None
