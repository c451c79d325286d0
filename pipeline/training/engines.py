"""Which engines there are, with which voices, and which of them train the model.

Variety of voices decides what the model understands (docs/training.md). espeak-ng (formant synthesis, any
language), SVOX Pico and RHVoice (HMM), flite (statistical and unit selection) and Festival (diphones) train
it. MBROLA's voices may be used with MBROLA only; they never train the model and serve as the engine that was
held out altogether.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from pathlib import Path

from pipeline.training.foreign import CZECH, FINNISH
from pipeline.training.programs import MBROLA_FOLDER, FestivalVoice, ForeignVoice, MbrolaVoice, RhvoiceVoice
from pipeline.training.respell import italian_spelling
from pipeline.training.voices import ACCENTS, EspeakVoice, FliteVoice, PicoVoice, Voice

ENGINES = ("espeak-ng", "pico", "flite", "festival", "foreign", "rhvoice")
"""Those that train the model; ``foreign`` are Festival's voices of other languages."""

_FESTIVAL_FOLDER = Path("/usr/share/festival/voices")
_RHVOICE_FOLDER = Path("/usr/share/RHVoice/voices")
_PACKAGES: dict[str, dict[str, str | Path]] = {
    "espeak-ng": {"espeak-ng": "libespeak-ng.so.1"},
    "pico": {"libttspico-utils": "libttspico.so.0"},
    "flite": {"flite": "libflite.so.1"},
    "festival": {
        "festvox-kallpc16k": _FESTIVAL_FOLDER / "english/kal_diphone",
        "festvox-kdlpc16k": _FESTIVAL_FOLDER / "english/ked_diphone",
        "festvox-itapc16k": _FESTIVAL_FOLDER / "italian/pc_diphone",
        "festvox-italp16k": _FESTIVAL_FOLDER / "italian/lp_diphone",
    },
    "foreign": {
        "festvox-czech-ph": _FESTIVAL_FOLDER / "czech/czech_ph",
        "festvox-czech-dita": _FESTIVAL_FOLDER / "czech/czech_dita",
        "festvox-czech-machac": _FESTIVAL_FOLDER / "czech/czech_machac",
        "festvox-czech-krb": _FESTIVAL_FOLDER / "czech/czech_krb",
        "festvox-suopuhe-lj": _FESTIVAL_FOLDER / "finnish/suo_fi_lj_diphone",
        "festvox-suopuhe-mv": _FESTIVAL_FOLDER / "finnish/hy_fi_mv_diphone",
    },
    "rhvoice": {
        "rhvoice": Path("/usr/bin/RHVoice-test"),
        "rhvoice-english": _RHVOICE_FOLDER / "alan",
    },
    "mbrola": {
        f"mbrola-{voice}": MBROLA_FOLDER / voice / voice
        for voice in ("us1", "us2", "us3", "en1", "es1", "es2", "mx1", "mx2", "vz1")
    },
}
"""Debian packages of each engine, with a library or a file of each that tells whether it is there."""


def missing_packages(engines: Collection[str]) -> list[str]:
    """Debian packages that have to be installed before ``engines`` can speak with all of their voices."""
    return [
        package
        for engine in engines
        for package, part in _PACKAGES[engine].items()
        if not (part.exists() if isinstance(part, Path) else _loads(part))
    ]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
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
)
_DIPHONES = {"es": ("lp_diphone", "pc_diphone"), "en": ("kal_diphone", "ked_diphone")}


def training_voices(language: str, engines: Collection[str] = ENGINES) -> list[tuple[float, list[Voice]]]:
    """Voices in groups, each with its share of the training material; in a group every voice is as likely.

    Spanish has few recorded speakers among the engines, so Italian ones read it too, in Italian spelling
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
            ("festival", 0.098, [FestivalVoice("es", voice, italian_spelling) for voice in _DIPHONES["es"]]),
            ("foreign", 0.30, [ForeignVoice("es", *voice) for voice in _FOREIGN]),
        ],
        "en": [
            ("espeak-ng", 0.2368, espeak),
            ("pico", 0.2072, [PicoVoice("en", "en-US"), PicoVoice("en", "en-GB")]),
            ("flite", 0.1924, [FliteVoice("en", voice) for voice in _FLITE]),
            ("festival", 0.1036, [FestivalVoice("en", voice) for voice in _DIPHONES["en"]]),
            ("rhvoice", 0.26, [RhvoiceVoice("en", voice) for voice in _RHVOICE]),
        ],
    }
    return [(share, voices) for engine, share, voices in groups[language] if engine in engines]


def held_out_voices(language: str) -> list[Voice]:
    """Voices never heard in training, of an engine that was."""
    accents = {"es": ("es", "es-419"), "en": ("en-us", "en")}[language]
    return [EspeakVoice(language, f"{a}+{v}") for a in accents for v in sorted(HELD_OUT_VARIANTS)]


_OPEN = (("^e/", "e"), ("^o/", "o"))


def held_out_engine(language: str) -> list[Voice]:
    """The MBROLA voices."""
    if language == "en":
        return [MbrolaVoice("en", name, name) for name in ("us1", "us2", "us3", "en1")]
    return [
        MbrolaVoice("es", "es1", "es1", (*_OPEN, (r"^l\^", "l"))),
        MbrolaVoice("es", "es2", "es1", (*_OPEN, (r"^l\^", "l"))),
        MbrolaVoice("es", "mx1", "mx1", (*_OPEN, (r"^l\^", "jj"))),
        MbrolaVoice("es", "mx2", "mx1", (*_OPEN, (r"^l\^", "jj"))),
        MbrolaVoice("es", "vz1", "vz1", (*_OPEN, (r"^l\^", "l"))),
    ]
