"""Speech synthesisers behind one interface: sentences in, 16 kHz waveforms out.

Variety of voices decides what the model understands (docs/training.md), so every engine whose terms
allow it is used: espeak-ng (formant synthesis, any language), SVOX Pico (HMM), flite (statistical and
unit selection) and Festival (diphones). MBROLA's voices may be used with MBROLA only; they never train
the model and serve as the engine that was held out altogether.

The libraries are loaded in process; Festival has no stable library and runs as a batch process.
Debian packages: espeak-ng, libttspico-utils, flite, festival, festvox-{kallpc16k,kdlpc16k,rablpc16k,
itapc16k,italp16k}, festlex-{cmu,oald,poslex,ifd}; for the held-out engine mbrola and mbrola-{es1..us3}.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.config import SAMPLE_RATE
from pipeline.training.respell import italian_spelling

Pcm = npt.NDArray[np.int16]


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

    name: str
    language: str

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """Speak each text, with pace and pitch drawn from ``random``; None where the engine stays silent."""


def trimmed(pcm: npt.NDArray[np.generic], rate: int, word_ends: Sequence[int] = ()) -> Speech | None:
    """``pcm`` at 16 kHz without the silence around it, at -1 dB peak; None when there is nothing but silence."""
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


class _EspeakEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_EspeakCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)


class _Espeak:
    """libespeak-ng, which is one global state per process (speak_lib.h)."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libespeak-ng.so.1")
        synchronous, dont_exit = 2, 0x8000
        self.rate = self._lib.espeak_Initialize(synchronous, 0, None, dont_exit)
        if self.rate <= 0:
            raise OSError("libespeak-ng cannot be initialised; is espeak-ng-data installed?")
        self._pieces: list[Pcm] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _EspeakCallback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wav: object, count: int, events: object) -> int:
        if wav and count:
            self._pieces.append(np.ctypeslib.as_array(wav, (count,)).copy())  # type: ignore[arg-type]
        index = 0
        while events[index].type:  # type: ignore[index]
            if events[index].type == 1:  # type: ignore[index]
                self._words.append((events[index].text_position - 1, events[index].sample))  # type: ignore[index]
            index += 1
        return 0

    def speak(self, voice: str, text: str, rate: int, pitch: int, pitch_range: int) -> Speech | None:
        if self._lib.espeak_SetVoiceByName(voice.encode()):
            raise OSError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((1, rate), (3, pitch), (4, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._words = [], []
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        if not self._pieces:
            return None
        pcm = np.concatenate(self._pieces)
        return trimmed(pcm, self.rate, self._word_ends(text, len(pcm)))

    def _word_ends(self, text: str, samples: int) -> list[int]:
        """A word ends where the next one that espeak-ng reports begins."""
        starts = dict(self._words)
        words = [match.start() for match in re.finditer(r"\S+", text)]
        ends, following = [], samples
        for index in range(len(words) - 1, -1, -1):
            ends.append(following)
            limit = words[index + 1] if index + 1 < len(words) else len(text)
            inside = [starts[at] for at in range(words[index], limit) if at in starts]
            following = min([*inside, following])
        return ends[::-1]


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


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
        return [
            _espeak().speak(
                self.voice, text, random.randint(120, 210), random.randint(20, 80), random.randint(30, 80)
            )
            for text in texts
        ]


class _Pico:
    """One engine of libttspico (picoapi.h); 16 kHz."""

    def __init__(self, language: str) -> None:
        self._lib = ctypes.CDLL("libttspico.so.0")
        self._memory = ctypes.create_string_buffer(4 * 1024 * 1024)
        system = ctypes.c_void_p()
        self._check(self._lib.pico_initialize(self._memory, len(self._memory), ctypes.byref(system)))
        folder = Path("/usr/share/pico/lang")
        self._lib.pico_createVoiceDefinition(system, b"voice")
        for pattern in (f"{language}_ta.bin", f"{language}_*_sg.bin"):
            resource, name = ctypes.c_void_p(), ctypes.create_string_buffer(200)
            path = next(folder.glob(pattern), folder / pattern)
            self._check(self._lib.pico_loadResource(system, str(path).encode(), ctypes.byref(resource)))
            self._lib.pico_getResourceName(system, resource, name)
            self._lib.pico_addResourceToVoiceDefinition(system, b"voice", name)
        self._engine = ctypes.c_void_p()
        self._check(self._lib.pico_newEngine(system, b"voice", ctypes.byref(self._engine)))

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise OSError(f"libttspico answers {status}; is libttspico-data installed?")

    def speak(self, text: str) -> Speech | None:
        data, pieces = text.encode() + b"\0", []
        buffer, count, kind = ctypes.create_string_buffer(4096), ctypes.c_int16(), ctypes.c_int16()
        while data:
            self._check(self._lib.pico_putTextUtf8(self._engine, data, len(data), ctypes.byref(count)))
            data, busy = data[count.value :], True
            while busy:
                status = self._lib.pico_getData(
                    self._engine, buffer, len(buffer), ctypes.byref(count), ctypes.byref(kind)
                )
                pieces.append(buffer.raw[: count.value])
                busy = status == 201
        return trimmed(np.frombuffer(b"".join(pieces), np.int16), SAMPLE_RATE)


_pico = functools.cache(_Pico)


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
        results: list[Speech | None] = []
        for text in texts:
            spelled = self.spell(re.sub(r"[<>&]", " ", text))
            speed, pitch = random.randint(75, 140), random.randint(70, 140)
            results.append(
                _pico(self.voice).speak(f'<speed level="{speed}"><pitch level="{pitch}">{spelled}</pitch></speed>')
                if spelled
                else None
            )
        return results


class _Wave(ctypes.Structure):
    """``cst_wave`` of flite (cst_wave.h)."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _FliteVoice(ctypes.Structure):
    """The head of ``cst_voice`` (cst_voice.h)."""

    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class _Flite:
    def __init__(self, voice: str) -> None:
        self._lib = ctypes.CDLL("libflite.so.1", ctypes.RTLD_GLOBAL)
        for name in ("usenglish", "cmulex"):
            ctypes.CDLL(f"libflite_{name}.so.1", ctypes.RTLD_GLOBAL)
        self._lib.flite_init()
        register = getattr(ctypes.CDLL(f"libflite_{voice}.so.1"), f"register_{voice}")
        register.restype = ctypes.POINTER(_FliteVoice)
        self._voice = register(None)
        self._lib.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
        self._lib.flite_feat_set_float.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float)

    def speak(self, text: str, stretch: float) -> Speech | None:
        self._lib.flite_feat_set_float(self._voice.contents.features, b"duration_stretch", stretch)
        wave = self._lib.flite_text_to_wave(text.encode("ascii", "ignore"), self._voice)
        if not wave:
            return None
        head = wave.contents
        pcm = np.ctypeslib.as_array(head.samples, (head.num_samples,)).copy()
        rate = head.sample_rate
        self._lib.delete_wave(wave)
        return trimmed(pcm, rate)


_flite = functools.cache(_Flite)


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
        return [_flite(self.voice).speak(text, random.uniform(0.8, 1.3)) for text in texts]


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
            pho = subprocess.run(
                ["espeak-ng", "-v", f"mb-{self.base}", "-s", str(random.randint(130, 180)), "-q", "--pho", text],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for pattern, by in self.rename:
                pho = re.sub(pattern, by, pho, flags=re.MULTILINE)
            data = Path("/usr/share/mbrola", self.voice, self.voice)
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
    "f1 f2 f3 f5 m1 m2 m3 m4 m6 m7 m8 klatt klatt2 klatt3 klatt4 klatt6 Alex Alicia Andrea Andy Annie adam "
    "anika antonio aunty belinda benjamin boris caleb david ed edward edward2 Denis Diogo Gene Gene2 gustave "
    "Henrique Hugo iven iven2 iven3 Jacky john kaukovalta Lee linda marcelo Marco Mario max Michael michel "
    "miguel Mike Nguyen norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 travis victor zac"
).split()
_ACCENTS = {
    "es": ("es", "es-419"),
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"),
}


def training_voices(language: str) -> list[tuple[float, list[Voice]]]:
    """Engines with their share of the training material; within an engine every voice is as likely.

    Spanish has few recorded speakers among the engines, so Italian ones read it too, in Italian spelling
    (:mod:`pipeline.training.respell`): a Spanish speaker with an accent.
    """
    espeak: list[Voice] = [
        EspeakVoice(language, f"{accent}+{variant}") for accent in _ACCENTS[language] for variant in _VARIANTS
    ]
    if language == "es":
        return [
            (0.40, espeak),
            (0.36, [PicoVoice("es", "es-ES")]),
            (0.10, [PicoVoice("es", "it-IT", italian_spelling)]),
            (0.14, [FestivalVoice("es", name, italian_spelling) for name in ("lp_diphone", "pc_diphone")]),
        ]
    return [
        (0.32, espeak),
        (0.28, [PicoVoice("en", "en-US"), PicoVoice("en", "en-GB")]),
        (0.26, [FliteVoice("en", name) for name in ("cmu_us_slt", "cmu_us_rms", "cmu_us_awb", "cmu_us_kal16")]),
        (0.14, [FestivalVoice("en", name) for name in ("kal_diphone", "ked_diphone", "rab_diphone")]),
    ]


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
