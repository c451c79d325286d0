"""Phonemes of espeak-ng as phones of other languages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.foreign import CZECH, FINNISH, ITALIAN, PAUSES, segments
from pipeline.training.libraries import espeak
from pipeline.training.voices import ACCENTS
from tests.pipeline.training.speaking import needs

TABLES = {
    f"{name} reads {language}": (language, phones)
    for name, readable in (("czech", CZECH), ("finnish", FINNISH), ("italian", ITALIAN))
    for language, phones in readable.items()
}
TEXTS = {
    "es": "¿Dónde está la niña? El rey Carlos llegó en guerra cuando yo tenía cincuenta años; jugábamos al "
    "ajedrez, y hacía muchísimo viento. Hay aire en Europa, oigo ciudad, doy agua, reina, cuidado, show.",
    "fr": "Où est la petite fille ? Un bon vin blanc, mais l'huile et les yeux me plaisent beaucoup ; "
    "je cherche la montagne, le cœur, la lune, deux œufs, une guerre, le château, trois zèbres.",
    "it": "Dov'è la bambina? Gli gnomi più belli escono dalla zuppa, perché la ragazza è qui; la sciarpa sa "
    "di mezzogiorno, il cielo e la giacca, l'aglio, il cuore, la guerra, lo sbaglio, quindici banchi.",
    "pt": "Onde estão as coisas da menina? Amanhã o irmão da senhora vai chegar com muito vinho e pão; jogar "
    "e ganhar, o filho, a guerra, o carro, dez ruas, as mãos, os leões, o céu, viu, hoje, tia, dia, Brasil.",
}
Said = list[tuple[str, float, float, float]]


def said(scheme: str) -> Said:
    """Phone, seconds, seconds into it and Hz of each phone with a pitch."""
    found = re.findall(r"\((\S+) ([\d.]+) \(([\d.]+) (\d+)\)\)", scheme)
    return [(phone, float(length), float(at), float(hertz)) for phone, length, at, hertz in found]


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data(), pitch=st.floats(80, 250), seed=st.integers())
def test_phones_follow_the_phonemes(table: str, data: st.DataObject, pitch: float, seed: int):
    _, phones = TABLES[table]
    lengths = st.floats(0.07, 0.4)
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
    assert segments([("a", 0.1), ("click", 0.1)], CZECH["es"], 100.0, Random(0)) is None


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("table", TABLES)
def test_languages_are_covered(table: str):
    language, phones = TABLES[table]
    for accent in ACCENTS[language]:
        phonemes = espeak().phonemes(TEXTS[language], accent, rate=150)
        assert len(phonemes) > 100
        assert not {name for name, _ in phonemes} - PAUSES - phones.keys(), accent
        assert segments(phonemes, phones, 100.0, Random(0)) is not None


@pytest.mark.parametrize(
    ("name", "voice"),
    [("czech", "czech_ph"), ("finnish", "suo_fi_lj_diphone"), ("italian", "pc_diphone")],
)
def test_the_voices_have_these_phones(name: str, voice: str, tmp_path: Path):
    needs("foreign", "pt")
    script = tmp_path / "phones.scm"
    script.write_text(
        f"(voice_{voice}) (print (mapcar car (cadr (assoc 'phones (PhoneSet.description nil)))))"
    )
    printed = subprocess.run(
        ["festival", "--batch", script], capture_output=True, text=True, check=True
    ).stdout
    wanted = {
        phone
        for table, (_, phones) in TABLES.items()
        if table.startswith(name)
        for spoken in phones.values()
        for phone in spoken.split()
    }

    assert len(wanted) > 20
    assert wanted <= set(printed.strip("()\n ").split())
