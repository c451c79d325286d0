"""espeak-ng, SVOX Pico and flite through their C libraries: text in, samples at the engine's own rate out.

Each keeps global state, so a process has one :class:`Espeak` at most and uses all of them from one thread.
Use the cached :func:`espeak`, :func:`pico` and :func:`flite`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.int16]

PICO_FOLDER = Path("/usr/share/pico/lang")


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


class Espeak:
    """libespeak-ng (speak_lib.h).

    Attributes:
        rate: samples per second.

    Raises:
        OSError: it is not installed.
    """

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libespeak-ng.so.1")
        synchronous, phoneme_events, dont_exit = 2, 0x0001, 0x8000
        self.rate: int = self._lib.espeak_Initialize(synchronous, 0, None, phoneme_events | dont_exit)
        if self.rate <= 0:
            raise OSError("libespeak-ng cannot be initialised; is espeak-ng-data installed?")
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._pieces: list[Pcm] = []
        self._words: list[tuple[int, int]] = []
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _EspeakCallback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(
        self, wav: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_EspeakEvent]
    ) -> int:
        if wav and count:
            self._pieces.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index, word, phoneme = 0, 1, 7
        while events[index].type:
            event = events[index]
            if event.type == word:
                self._words.append((event.text_position - 1, event.sample))
            elif event.type == phoneme:
                self._phonemes.append((event.audio_position, event.id.decode()))
            index += 1
        return 0

    def speak(
        self, text: str, voice: str, *, rate: int, pitch: int, pitch_range: int
    ) -> tuple[Pcm, list[int]]:
        """Speak ``text``.

        Args:
            text: what to say.
            voice: a language and a variant, such as ``es-419+f2``.
            rate: words per minute.
            pitch: 0 to 100.
            pitch_range: 0 to 100.

        Returns:
            Int16 [samples], and for each word of the text the sample at which it has been said.

        Raises:
            OSError: there is no such voice.
        """
        pcm = self._synthesise(text, voice, ((1, rate), (3, pitch), (4, pitch_range)))
        return pcm, self._word_ends(text, len(pcm))

    def phonemes(self, text: str, voice: str, *, rate: int) -> list[tuple[str, float]]:
        """How ``text`` is said.

        Args:
            text: what to say.
            voice: a language, such as ``es-419``.
            rate: words per minute.

        Returns:
            espeak-ng's names of phonemes, each with its duration in seconds; ``_`` and ``_:`` are pauses.

        Raises:
            OSError: there is no such voice.
        """
        pcm = self._synthesise(text, voice, ((1, rate),))
        begins = [milliseconds / 1000 for milliseconds, _ in self._phonemes] + [len(pcm) / self.rate]
        return [
            (name, max(after - begin, 0.0))
            for (_, name), (begin, after) in zip(self._phonemes, itertools.pairwise(begins), strict=True)
        ]

    def ipa(self, text: str, voice: str, *, tie: str) -> str:
        """``text`` in the International Phonetic Alphabet.

        Args:
            text: what to say; what espeak-ng makes of its punctuation is lost.
            voice: a language, such as ``es-419``.
            tie: between the signs of one phoneme, an ASCII character.

        Raises:
            OSError: there is no such voice.
        """
        self._choose(voice)
        data = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(data))
        utf_8, ipa_with_ties, clauses = 1, 0x82, []
        while rest:
            clause = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), utf_8, ipa_with_ties | ord(tie) << 8)
            clauses.append(clause.decode())
        # Where it takes a word for one of another language, it says so: (en).
        return " ".join(re.sub(r"\([a-z-]+\)", "", " ".join(clauses)).split())

    def _choose(self, voice: str) -> None:
        if self._lib.espeak_SetVoiceByName(voice.encode()):
            raise OSError(f"espeak-ng has no voice {voice!r}")

    def _synthesise(self, text: str, voice: str, parameters: Iterable[tuple[int, int]]) -> Pcm:
        self._choose(voice)
        for parameter, value in parameters:
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._words, self._phonemes = [], [], []
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        return np.concatenate(self._pieces) if self._pieces else np.empty(0, np.int16)

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


class Pico:
    """One voice of libttspico (picoapi.h); 16 kHz.

    Args:
        locale: language and country, such as ``es-ES``.

    Raises:
        OSError: the library or the voice is not installed.
    """

    def __init__(self, locale: str) -> None:
        self._lib = ctypes.CDLL("libttspico.so.0")
        self._memory = ctypes.create_string_buffer(4 * 1024 * 1024)
        system = ctypes.c_void_p()
        self._check(self._lib.pico_initialize(self._memory, len(self._memory), ctypes.byref(system)))
        self._lib.pico_createVoiceDefinition(system, b"voice")
        for pattern in (f"{locale}_ta.bin", f"{locale}_*_sg.bin"):
            resource, name = ctypes.c_void_p(), ctypes.create_string_buffer(200)
            path = next(PICO_FOLDER.glob(pattern), PICO_FOLDER / pattern)
            self._check(self._lib.pico_loadResource(system, str(path).encode(), ctypes.byref(resource)))
            self._lib.pico_getResourceName(system, resource, name)
            self._lib.pico_addResourceToVoiceDefinition(system, b"voice", name)
        self._engine = ctypes.c_void_p()
        self._check(self._lib.pico_newEngine(system, b"voice", ctypes.byref(self._engine)))

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise OSError(f"libttspico answers {status}; is libttspico-data installed?")

    def speak(self, text: str) -> Pcm:
        """Speak ``text``, which may have Pico's mark-up; int16 [samples]."""
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
        return np.frombuffer(b"".join(pieces), np.int16)


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


class Flite:
    """One voice of flite.

    Args:
        voice: such as ``cmu_us_slt``.

    Raises:
        OSError: the library or the voice is not installed.
    """

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

    def speak(self, text: str, stretch: float) -> tuple[Pcm, int]:
        """Speak ``text`` with every sound ``stretch`` times as long; int16 [samples] and their rate."""
        self._lib.flite_feat_set_float(self._voice.contents.features, b"duration_stretch", stretch)
        wave = self._lib.flite_text_to_wave(text.encode("ascii", "ignore"), self._voice)
        if not wave:
            return np.empty(0, np.int16), 16_000
        head = wave.contents
        pcm = np.ctypeslib.as_array(head.samples, (head.num_samples,)).copy()
        rate: int = head.sample_rate
        self._lib.delete_wave(wave)
        return pcm, rate


espeak = functools.cache(Espeak)
pico = functools.cache(Pico)
flite = functools.cache(Flite)
