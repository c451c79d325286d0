"""Speech synthesisers behind one interface: sentences in, 16 kHz waveforms out.

Variety of voices decides what the model understands (docs/training.md). espeak-ng (formant synthesis, any
language), SVOX Pico (HMM), flite (statistical and unit selection) and Festival (diphones) train it. MBROLA's
voices may be used with MBROLA only; they never train the model and serve as the engine that was held out
altogether.

The libraries are loaded in process; Festival has no stable library and runs as a batch process.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.config import SAMPLE_RATE
from pipeline.training import libraries
from pipeline.training.libraries import Pcm
from pipeline.training.respell import italian_spelling

ENGINES = ("espeak-ng", "pico", "flite", "festival")
"""Those that train the model."""

_MBROLA_FOLDER = Path("/usr/share/mbrola")
_FESTIVAL_FOLDER = Path("/usr/share/festival/voices")
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
    "mbrola": {
        f"mbrola-{voice}": _MBROLA_FOLDER / voice / voice
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


@dataclass(frozen=True)
class Speech:
    """One synthesised sentence.

    Args:
        pcm: int16 [samples] at 16 kHz, without silence around it.
        word_ends: for each word of the text the sample at which it has been said; empty where the
            engine does not tell.
    """

    pcm: Pcm
    word_ends: tuple[int, ...] = ()


class Voice(Protocol):
    """One voice of one engine."""

    @property
    def name(self) -> str:
        """Engine and voice."""

    @property
    def language(self) -> str:
        """ISO 639-1 code."""

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """Speak each text, with pace and pitch drawn from ``random``; None where the engine stays silent."""


def trimmed(pcm: npt.NDArray[np.generic], rate: int, word_ends: Sequence[int] = ()) -> Speech | None:
    """``pcm`` at 16 kHz and -1 dB peak without the silence around it; None if there is nothing else."""
    wave = pcm.astype(np.float32)
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="MQ")
    peak = float(np.abs(wave).max(initial=0.0))
    loud = np.flatnonzero(np.abs(wave) > 0.01 * peak) if peak > 100 else np.empty(0, np.int64)
    if loud.size < SAMPLE_RATE // 10:
        return None
    first, last = int(loud[0]), int(loud[-1]) + 1
    scaled = (wave[first:last] * (29_000 / peak)).astype(np.int16)
    ends = tuple(min(max(round(end * SAMPLE_RATE / rate) - first, 0), last - first) for end in word_ends)
    return Speech(scaled, ends)


@dataclass(frozen=True)
class EspeakVoice:
    """A language and a voice variant of espeak-ng, such as ``es-419+f2``."""

    language: str
    voice: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"espeak-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`; rate, pitch and pitch range as a person would vary them."""
        engine, results = libraries.espeak(), []
        for text in texts:
            pcm, word_ends = engine.speak(
                text,
                self.voice,
                rate=random.randint(120, 210),
                pitch=random.randint(20, 80),
                pitch_range=random.randint(30, 80),
            )
            results.append(trimmed(pcm, engine.rate, word_ends))
        return results


@dataclass(frozen=True)
class PicoVoice:
    """SVOX Pico; ``spell`` turns the text into the spelling of the engine's own language, or gives up."""

    language: str
    voice: str
    spell: Callable[[str], str | None] = str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"pico-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        results = []
        for text in texts:
            spelled = self.spell(re.sub(r"[<>&]", " ", text))
            speed, pitch = random.randint(75, 140), random.randint(70, 140)
            marked = f'<speed level="{speed}"><pitch level="{pitch}">{spelled}</pitch></speed>'
            results.append(
                trimmed(libraries.pico(self.voice).speak(marked), SAMPLE_RATE) if spelled else None
            )
        return results


@dataclass(frozen=True)
class FliteVoice:
    """flite; American English only."""

    language: str
    voice: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"flite-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        engine = libraries.flite(self.voice)
        return [trimmed(*engine.speak(text, random.uniform(0.8, 1.3))) for text in texts]


@dataclass(frozen=True)
class FestivalVoice:
    """Festival's diphone voices, a batch at a time; ``spell`` as in :class:`PicoVoice`."""

    language: str
    voice: str
    spell: Callable[[str], str | None] = str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"festival-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        spelled = [self.spell(text) for text in texts]
        with tempfile.TemporaryDirectory(prefix="festival-") as folder:
            script = [f"(voice_{self.voice})"]
            for index, text in enumerate(spelled):
                if text:
                    quoted = text.replace("\\", " ").replace('"', " ")
                    script += [
                        f"(Parameter.set 'Duration_Stretch {random.uniform(0.8, 1.25):.2f})",
                        f'(unwind-protect (utt.save.wave (utt.synth (Utterance Text "{quoted}"))'
                        f' "{folder}/{index}.raw" \'raw) nil)',
                    ]
            path = Path(folder, "batch.scm")
            path.write_text("\n".join(script), encoding="latin-1", errors="ignore")
            subprocess.run(
                ["festival", "--batch", str(path)], check=False, capture_output=True, timeout=120 + len(texts)
            )
            results = []
            for index in range(len(texts)):
                raw = Path(folder, f"{index}.raw")
                pcm = np.fromfile(raw, np.int16) if raw.exists() else np.empty(0, np.int16)
                results.append(trimmed(pcm, SAMPLE_RATE) if pcm.size else None)
            return results


@dataclass(frozen=True)
class MbrolaVoice:
    """MBROLA over espeak-ng's phonemes: the held-out engine, for measuring only.

    espeak-ng 1.51 leaves open vowels of its Spanish MBROLA tables untranslated and has the tables of
    some voices wrong; every Spanish voice starts from the phonemes of ``base`` and is renamed.
    """

    language: str
    voice: str
    base: str
    rename: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"mbrola-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        results = []
        for text in texts:
            speed = str(random.randint(130, 180))
            pho = subprocess.run(
                ["espeak-ng", "-v", f"mb-{self.base}", "-s", speed, "-q", "--pho", text],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for pattern, by in self.rename:
                pho = re.sub(pattern, by, pho, flags=re.MULTILINE)
            data = _MBROLA_FOLDER / self.voice / self.voice
            with tempfile.NamedTemporaryFile(suffix=".wav") as out:
                pitch = f"{random.uniform(0.88, 1.12):.2f}"
                subprocess.run(
                    ["mbrola", "-e", "-f", pitch, str(data), "-", out.name],
                    input=pho.encode(),
                    check=True,
                    capture_output=True,
                )
                raw = Path(out.name).read_bytes()
            rate = int.from_bytes(raw[24:28], "little")
            results.append(trimmed(np.frombuffer(raw[44:], np.int16), rate))
        return results


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
_ACCENTS = {
    "es": ("es", "es-419"),
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"),
}
_FLITE = ("cmu_us_slt", "cmu_us_rms", "cmu_us_awb", "cmu_us_kal16")
_DIPHONES = {"es": ("lp_diphone", "pc_diphone"), "en": ("kal_diphone", "ked_diphone")}


def training_voices(language: str, engines: Collection[str] = ENGINES) -> list[tuple[float, list[Voice]]]:
    """Voices in groups, each with its share of the training material; in a group every voice is as likely.

    Spanish has few recorded speakers among the engines, so Italian ones read it too, in Italian spelling
    (:mod:`pipeline.training.respell`): a Spanish speaker with an accent.

    Args:
        language: ISO 639-1 code.
        engines: those that may be used; without all of :data:`ENGINES` the shares sum to less than 1.
    """
    espeak: list[Voice] = [
        EspeakVoice(language, f"{accent}+{variant}") for accent in _ACCENTS[language] for variant in _VARIANTS
    ]
    groups: dict[str, list[tuple[str, float, list[Voice]]]] = {
        "es": [
            ("espeak-ng", 0.40, espeak),
            ("pico", 0.36, [PicoVoice("es", "es-ES")]),
            ("pico", 0.10, [PicoVoice("es", "it-IT", italian_spelling)]),
            ("festival", 0.14, [FestivalVoice("es", voice, italian_spelling) for voice in _DIPHONES["es"]]),
        ],
        "en": [
            ("espeak-ng", 0.32, espeak),
            ("pico", 0.28, [PicoVoice("en", "en-US"), PicoVoice("en", "en-GB")]),
            ("flite", 0.26, [FliteVoice("en", voice) for voice in _FLITE]),
            ("festival", 0.14, [FestivalVoice("en", voice) for voice in _DIPHONES["en"]]),
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
