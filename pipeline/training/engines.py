"""Which engines there are, with which voices, and which of them train the model.

Variety of voices decides what the model understands (docs/training.md). espeak-ng (formant synthesis, any
language), SVOX Pico and RHVoice (HMM), flite (statistical and unit selection), Festival (diphones) and Kokoro
(neural) train it. MBROLA's voices may be used with MBROLA only; they never train the model and serve as the
engine that was held out altogether.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.training.foreign import CZECH, FINNISH, ITALIAN
from pipeline.training.neural import KOKORO_FOLDER, KokoroVoice
from pipeline.training.programs import MBROLA_FOLDER, FestivalVoice, ForeignVoice, MbrolaVoice, RhvoiceVoice
from pipeline.training.respell import italian_spelling
from pipeline.training.text import LANGUAGES
from pipeline.training.voices import ACCENTS, EspeakVoice, FliteVoice, PicoVoice, Voice

ENGINES = ("espeak-ng", "pico", "flite", "festival", "foreign", "rhvoice", "kokoro")
"""Those that train the model; ``foreign`` are Festival's voices of other languages."""

_FESTIVAL_FOLDER = Path("/usr/share/festival/voices")
_RHVOICE_FOLDER = Path("/usr/share/RHVoice/voices")

NEURAL = 0.6
"""Share of the neural voices: people sound like them more than like the others."""


@dataclass(frozen=True)
class _Package:
    """A Debian package, or where another one is to be had.

    Args:
        name: of it.
        part: a library, a file or a Python module of it, which tells whether it is there.
        languages: for whose voices it is needed.
    """

    name: str
    part: str | Path
    languages: Collection[str] = LANGUAGES


_ROMANCE = ("es", "fr", "it", "pt")
_PACKAGES: dict[str, tuple[_Package, ...]] = {
    "espeak-ng": (_Package("espeak-ng", "libespeak-ng.so.1"),),
    "pico": (_Package("libttspico-utils", "libttspico.so.0", ("es", "fr", "it", "en")),),
    "flite": (_Package("flite", "libflite.so.1", ("en",)),),
    "festival": (
        _Package("festvox-kallpc16k", _FESTIVAL_FOLDER / "english/kal_diphone", ("en",)),
        _Package("festvox-kdlpc16k", _FESTIVAL_FOLDER / "english/ked_diphone", ("en",)),
        _Package("festvox-itapc16k", _FESTIVAL_FOLDER / "italian/pc_diphone", ("es", "it")),
        _Package("festvox-italp16k", _FESTIVAL_FOLDER / "italian/lp_diphone", ("es", "it")),
    ),
    "foreign": (
        *(
            _Package(f"festvox-czech-{name}", _FESTIVAL_FOLDER / f"czech/czech_{name}", ("es", "it", "pt"))
            for name in ("ph", "dita", "machac", "krb")
        ),
        _Package("festvox-suopuhe-lj", _FESTIVAL_FOLDER / "finnish/suo_fi_lj_diphone", _ROMANCE),
        _Package("festvox-suopuhe-mv", _FESTIVAL_FOLDER / "finnish/hy_fi_mv_diphone", _ROMANCE),
        _Package("festvox-itapc16k", _FESTIVAL_FOLDER / "italian/pc_diphone", ("pt",)),
        _Package("festvox-italp16k", _FESTIVAL_FOLDER / "italian/lp_diphone", ("pt",)),
    ),
    "rhvoice": (
        _Package("rhvoice", Path("/usr/bin/RHVoice-test"), ("en",)),
        _Package("rhvoice-english", _RHVOICE_FOLDER / "alan", ("en",)),
    ),
    "kokoro": (
        _Package("kokoro (PyPI)", "kokoro"),
        _Package(f"hexgrad/Kokoro-82M (Hugging Face, in {KOKORO_FOLDER})", KOKORO_FOLDER / "voices"),
    ),
    "mbrola": tuple(
        _Package(f"mbrola-{voice}", MBROLA_FOLDER / voice / voice, (language,))
        for language, voices in {
            "en": ("us1", "us2", "us3", "en1"),
            "es": ("es1", "es2", "mx1", "mx2", "vz1"),
            "fr": ("fr1", "fr4"),
            "it": ("it3", "it4"),
            "pt": ("br1", "br4", "pt1"),
        }.items()
        for voice in voices
    ),
}


def missing_packages(engines: Collection[str], languages: Collection[str]) -> list[str]:
    """Packages to be installed before ``engines`` can speak ``languages`` with all of their voices."""
    missing = [
        package.name
        for engine in engines
        for package in _PACKAGES[engine]
        if set(package.languages) & set(languages) and not _is_there(package.part)
    ]
    return list(dict.fromkeys(missing))


def _is_there(part: str | Path) -> bool:
    if isinstance(part, Path):
        return part.exists()
    if ".so." not in part:
        return find_spec(part) is not None
    try:
        ctypes.CDLL(part)
    except OSError:
        return False
    return True


HELD_OUT_VARIANTS = frozenset({"m5", "f4"})
"""Voice variants of espeak-ng that never train the model."""

_VARIANTS = (
    *("f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8"),
    *("klatt", "klatt2", "klatt3", "klatt4", "klatt6", "Alex", "Alicia", "Andrea", "Andy", "Annie"),
    *("adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed"),
    *("edward", "edward2", "Denis", "Diogo", "Gene", "Gene2", "gustave", "Henrique", "Hugo", "iven"),
    *("iven2", "iven3", "Jacky", "john", "kaukovalta", "Lee", "linda", "marcelo", "Marco", "Mario"),
    *("max", "Michael", "michel", "miguel", "Mike", "Nguyen", "norbert", "pablo", "paul", "pedro"),
    *("quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac"),
)
_FLITE = ("cmu_us_slt", "cmu_us_rms", "cmu_us_awb", "cmu_us_kal16")
_RHVOICE = ("alan", "bdl", "clb", "slt")
_FOREIGN = (
    ("czech_ph", CZECH, 110.0),
    ("czech_dita", CZECH, 190.0),
    ("czech_machac", CZECH, 105.0),
    ("czech_krb", CZECH, 160.0),
    ("suo_fi_lj_diphone", FINNISH, 180.0),
    ("hy_fi_mv_diphone", FINNISH, 100.0),
    ("lp_diphone", ITALIAN, 180.0),
    ("pc_diphone", ITALIAN, 110.0),
)
_ITALIAN_DIPHONES = ("lp_diphone", "pc_diphone")
_ENGLISH_DIPHONES = ("kal_diphone", "ked_diphone")


def _foreign(language: str) -> list[Voice]:
    """Voices of other languages that have phones for this one."""
    return [
        ForeignVoice(language, voice, phones[language], pitch)
        for voice, phones, pitch in _FOREIGN
        if language in phones
    ]


def training_voices(language: str, engines: Collection[str] = ENGINES) -> list[tuple[float, list[Voice]]]:
    """Voices in groups, each with its share of the training material; in a group every voice is as likely.

    But for the neural ones few languages have many recorded speakers, so those of others read them too
    (:mod:`pipeline.training.foreign`), and Italian ones read Spanish, in Italian spelling
    (:mod:`pipeline.training.respell`): a Spanish speaker with an accent.

    Args:
        language: ISO 639-1 code.
        engines: those that may be used; shares are relative to each other.
    """
    espeak: list[Voice] = [
        EspeakVoice(language, f"{accent}+{variant}") for accent in ACCENTS[language] for variant in _VARIANTS
    ]
    groups: dict[str, list[tuple[str, float, list[Voice]]]] = {
        "es": [
            ("espeak-ng", 0.28, espeak),
            ("pico", 0.252, [PicoVoice("es", "es-ES")]),
            ("pico", 0.07, [PicoVoice("es", "it-IT", italian_spelling)]),
            (
                "festival",
                0.098,
                [FestivalVoice("es", v, italian_spelling) for v in _ITALIAN_DIPHONES],
            ),
            ("foreign", 0.30, _foreign("es")),
        ],
        "fr": [
            ("espeak-ng", 0.40, espeak),
            ("pico", 0.35, [PicoVoice("fr", "fr-FR")]),
            ("foreign", 0.25, _foreign("fr")),
        ],
        "it": [
            ("espeak-ng", 0.25, espeak),
            ("pico", 0.22, [PicoVoice("it", "it-IT")]),
            ("festival", 0.28, [FestivalVoice("it", voice) for voice in _ITALIAN_DIPHONES]),
            ("foreign", 0.25, _foreign("it")),
        ],
        "pt": [
            ("espeak-ng", 0.50, espeak),
            ("foreign", 0.50, _foreign("pt")),
        ],
        "en": [
            ("espeak-ng", 0.2368, espeak),
            ("pico", 0.2072, [PicoVoice("en", "en-US"), PicoVoice("en", "en-GB")]),
            ("flite", 0.1924, [FliteVoice("en", voice) for voice in _FLITE]),
            ("festival", 0.1036, [FestivalVoice("en", voice) for voice in _ENGLISH_DIPHONES]),
            ("rhvoice", 0.26, [RhvoiceVoice("en", voice) for voice in _RHVOICE]),
        ],
    }
    neural: list[Voice] = [KokoroVoice(language, sex) for sex in "fm"]
    others = [(engine, (1 - NEURAL) * share, voices) for engine, share, voices in groups[language]]
    return [
        (share, voices)
        for engine, share, voices in (*others, ("kokoro", NEURAL, neural))
        if engine in engines
    ]


def held_out_voices(language: str) -> list[Voice]:
    """Voices never heard in training, of an engine that was."""
    accents = ACCENTS[language][:2]
    return [EspeakVoice(language, f"{a}+{v}") for a in accents for v in sorted(HELD_OUT_VARIANTS)]


_OPEN = (("^e/", "e"), ("^o/", "o"))
_LATERAL = (*_OPEN, (r"^l\^", "l"))
_YEISTA = (*_OPEN, (r"^l\^", "jj"))
_CLOSE = (("^i/", "i"), ("^u/", "u"), ("^ts2", "ts"))
_MBROLA: dict[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = {
    "en": (("us1", "us1", ()), ("us2", "us2", ()), ("us3", "us3", ()), ("en1", "en1", ())),
    "es": (
        ("es1", "es1", _LATERAL),
        ("es2", "es1", _LATERAL),
        ("mx1", "mx1", _YEISTA),
        ("mx2", "mx1", _YEISTA),
        ("vz1", "vz1", _LATERAL),
    ),
    "fr": (("fr1", "fr1", ()), ("fr4", "fr4", ())),
    "it": (("it3", "it3", _CLOSE), ("it4", "it4", _CLOSE)),
    "pt": (("br1", "br1", ()), ("br4", "br4", ()), ("pt1", "pt1", ())),
}
"""Voices by language, each with the voice of espeak-ng that it starts from and what is renamed."""


def held_out_engine(language: str) -> list[Voice]:
    """The MBROLA voices."""
    return [MbrolaVoice(language, *voice) for voice in _MBROLA[language]]
