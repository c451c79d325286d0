"""Speech synthesisers without a stable library, run as programs."""

from __future__ import annotations

import re
import subprocess
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from pipeline.training import libraries
from pipeline.training.foreign import segments
from pipeline.training.voices import ACCENTS, Speech, trimmed

MBROLA_FOLDER = Path("/usr/share/mbrola")


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
        utterances = []
        for text in texts:
            spelled = (self.spell(text) or "").replace("\\", " ").replace('"', " ")
            utterances.append(f'Text "{spelled}"' if spelled else None)
        stretches = [random.uniform(0.8, 1.25) for _ in texts]
        return _festival(self.voice, utterances, stretches)


@dataclass(frozen=True)
class ForeignVoice:
    """One of Festival's voices of another language, which reads phonemes of espeak-ng.

    Args:
        language: that it reads.
        voice: Festival's name.
        phones: what it has for each phoneme of that language, from :mod:`pipeline.training.foreign`.
        pitch: of the speaker, in Hz.
    """

    language: str
    voice: str
    phones: Mapping[str, str]
    pitch: float

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"foreign-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        engine, utterances = libraries.espeak(), []
        for text in texts:
            accent, rate = random.choice(ACCENTS[self.language]), random.randint(120, 200)
            said = segments(
                engine.phonemes(text, accent, rate=rate),
                self.phones,
                self.pitch * random.uniform(0.85, 1.2),
                random,
            )
            utterances.append(f"Segments {said}" if said else None)
        return _festival(self.voice, utterances, [1.0] * len(texts))


def _festival(
    voice: str, utterances: Sequence[str | None], stretches: Sequence[float]
) -> list[Speech | None]:
    """Have Festival say ``utterances``, each its type and content in Scheme; None where it says nothing."""
    with tempfile.TemporaryDirectory(prefix="festival-") as folder:
        script = [f"(voice_{voice})"]
        for index, (utterance, stretch) in enumerate(zip(utterances, stretches, strict=True)):
            if utterance:
                script += [
                    f"(Parameter.set 'Duration_Stretch {stretch:.2f})",
                    f"(unwind-protect (utt.save.wave (utt.synth (Utterance {utterance}))"
                    f' "{folder}/{index}.wav" \'riff) nil)',
                ]
        path = Path(folder, "batch.scm")
        path.write_text("\n".join(script), encoding="latin-1", errors="ignore")
        subprocess.run(
            ["festival", "--batch", str(path)],
            check=False,
            capture_output=True,
            timeout=120 + len(utterances),
        )
        return [_read(Path(folder, f"{index}.wav")) for index in range(len(utterances))]


def _read(path: Path) -> Speech | None:
    """Speech of a 16-bit mono WAV file; None if it is not there."""
    if not path.exists():
        return None
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return trimmed(pcm, file.getframerate()) if pcm.size else None


@dataclass(frozen=True)
class RhvoiceVoice:
    """RHVoice's statistical voices; English ones."""

    language: str
    voice: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"rhvoice-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        results = []
        with tempfile.TemporaryDirectory(prefix="rhvoice-") as folder:
            path = Path(folder, "speech.wav")
            for text in texts:
                rate, pitch = random.randint(75, 125), random.randint(80, 125)
                subprocess.run(
                    ["RHVoice-test", "-p", self.voice, "-r", str(rate), "-t", str(pitch), "-o", str(path)],
                    input=text,
                    text=True,
                    check=False,
                    capture_output=True,
                    timeout=120,
                )
                results.append(_read(path))
                path.unlink(missing_ok=True)
        return results


@dataclass(frozen=True)
class MbrolaVoice:
    """MBROLA over espeak-ng's phonemes: the held-out engine, for measuring only.

    espeak-ng 1.51 leaves phonemes of its Spanish and Italian MBROLA tables untranslated and has the tables of
    some voices wrong; such a voice starts from the phonemes of ``base`` and is renamed.
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
            data = MBROLA_FOLDER / self.voice / self.voice
            with tempfile.NamedTemporaryFile(suffix=".wav") as out:
                pitch = f"{random.uniform(0.88, 1.12):.2f}"
                subprocess.run(
                    ["mbrola", "-e", "-f", pitch, str(data), "-", out.name],
                    input=pho.encode(),
                    check=True,
                    capture_output=True,
                )
                results.append(_read(Path(out.name)))
        return results
