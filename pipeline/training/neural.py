"""Kokoro, a neural synthesiser (hexgrad/Kokoro-82M): phonemes and a style in, speech at 24 kHz out.

It is a StyleTTS 2 (Li et al. 2023, arXiv:2306.07691) with the vocoder of Kaneko et al. 2022
(arXiv:2203.02395). A style says how somebody sounds and how they talk, each in a half of its own, and what
lies between two styles is a style too: from a few dozen speakers come as many as are wanted. Pitch, melody
and the durations of phonemes are numbers on the way, and vary more among people than among its speakers.

On a GPU sentences are spoken many at a time: one alone takes nearly as long as a dozen. On a CPU one alone is
faster, for it finds room in the caches.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pipeline.training import libraries
from pipeline.training.voices import ACCENTS, Speech, trimmed

KOKORO_FOLDER = Path("/usr/share/kokoro")
"""A download of huggingface.co/hexgrad/Kokoro-82M."""

RATE = 24_000
_FRAME = 600
"""Samples in a frame, the unit of durations."""
_TIMBRE = 128
"""Values of a style that say how somebody sounds; those behind them say how they talk."""
_FRAMES_AT_ONCE = {"cuda": 3_000, "cpu": 0}
"""Frames that are spoken at a time by kind of device, 75 seconds or those of one sentence."""
_MOST_SILENCE = 1.2
"""How much longer what a sentence is spoken in may be than the sentence: it is filled up with silence, which
counts in norms over time."""

_VOICED = 10.0
"""Hertz below which Kokoro takes a frame for voiceless."""
_PITCHES = 60.0, 500.0
"""Hertz that voices stay between."""

_LANGUAGES = {"es": "e", "fr": "f", "it": "i", "pt": "p", "en": "ab"}
"""Letters that names of speakers begin with."""
_NAME = "kokoro-"
"""What names of these voices begin with."""
_ALPHABETS = "abefip"
"""Those of languages in Latin script, whose speakers may lend their voices to each other."""
_SINGLE = (
    *(("a^ɪ", "I"), ("a^ʊ", "W"), ("d^z", "ʣ"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("o^ʊ", "O"), ("ə^ʊ", "Q")),
    *(("t^s", "ʦ"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("^", "")),
)
"""What Kokoro has one sign for (misaki/espeak.py of its authors), after espeak-ng's signs with a tie."""


class Kokoro:
    """The model with its speakers.

    Args:
        folder: with ``config.json``, ``kokoro-v1_0.pth`` and ``voices/*.pt``.
        device: where it runs.

    Raises:
        OSError: something of this is not there.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        try:
            library = importlib.import_module("kokoro.model")
        except ImportError as error:
            raise OSError("the Python package kokoro is not installed") from error
        model = library.KModel(
            "hexgrad/Kokoro-82M", str(folder / "config.json"), str(folder / "kokoro-v1_0.pth")
        )
        self._model = model.eval().to(device)
        self.signs: dict[str, int] = model.vocab
        self.styles: dict[str, Tensor] = {
            path.stem: torch.load(path, weights_only=True)[:, 0]
            for path in sorted((folder / "voices").glob("*.pt"))
        }
        """By speaker; float32 [signs of a sentence, style]."""

    @torch.inference_mode()
    def speak(
        self, sentences: Sequence[str], manners: Sequence[Manner]
    ) -> list[npt.NDArray[np.float32] | None]:
        """Speak sentences.

        Args:
            sentences: in Kokoro's phonemes; what it has no sign for is left out.
            manners: of each.

        Returns:
            Samples of each; None where there is nothing to be said, or more than fits.
        """
        ids = [[self.signs[sign] for sign in sentence if sign in self.signs] for sentence in sentences]
        spoken = [at for at, own in enumerate(ids) if 0 < len(own) < len(manners[at].style)]
        results: list[npt.NDArray[np.float32] | None] = [None] * len(sentences)
        if not spoken:
            return results
        planned = self._plan([ids[at] for at in spoken], [manners[at] for at in spoken])
        for some, frames in _alike(planned.frames.tolist(), _FRAMES_AT_ONCE[self._model.device.type]):
            # A number of rows of its own would take as long to plan for as to compute.
            rows = some + some[-1:] * (2 ** (len(some) - 1).bit_length() - len(some))
            for place, samples in zip(some, self._say(planned, rows, frames), strict=False):
                results[spoken[place]] = samples
        return results

    def _plan(self, ids: Sequence[Sequence[int]], manners: Sequence[Manner]) -> _Planned:
        """How long each phoneme lasts, and what the rest is computed from."""
        model, device = self._model, self._model.device
        # Of a style what there is for so many signs.
        styles = torch.stack([manner.style[len(own) - 1] for manner, own in zip(manners, ids, strict=True)])
        lengths = torch.tensor([len(own) + 2 for own in ids])
        tokens = torch.zeros(len(ids), int(lengths.max()), dtype=torch.int64)
        paces = torch.ones(tokens.shape)
        for row, pace, own, manner in zip(tokens, paces, ids, manners, strict=True):
            row[1 : len(own) + 1] = torch.tensor(own)
            pace[: len(own) + 2] = manner.paces(len(own) + 2)
        missing = (torch.arange(tokens.shape[1]) >= lengths[:, None]).to(device)
        tokens, styles = tokens.to(device), styles.to(device)
        read = model.bert_encoder(model.bert(tokens, attention_mask=(~missing).int())).transpose(1, 2)
        rhythm = model.predictor.text_encoder(read, styles[:, _TIMBRE:], lengths, missing)
        packed = pack_padded_sequence(rhythm, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(model.predictor.lstm(packed)[0], batch_first=True)
        lasting = model.predictor.duration_proj(hidden).sigmoid().sum(-1) / paces.to(device)
        durations = lasting.round().clamp(min=1).masked_fill(missing, 0).long().cpu()
        heard = model.text_encoder(tokens, lengths, missing)
        melody = torch.tensor([(manner.pitch, manner.melody) for manner in manners], device=device)
        return _Planned(durations, lengths, styles, rhythm.transpose(1, 2), heard, melody)

    def _say(self, planned: _Planned, some: Sequence[int], most: int) -> Iterator[npt.NDArray[np.float32]]:
        """The samples of some of the sentences, spoken in ``most`` frames each."""
        model, frames = self._model, planned.frames[some]
        durations, styles = planned.durations[some], planned.styles[some]
        # A shorter sentence ends in so much more silence: its last phoneme is none.
        durations[torch.arange(len(some)), planned.lengths[some] - 1] += most - frames
        ends = durations.cumsum(1)[..., None]
        frame = torch.arange(most)
        spread = ((frame < ends) & (frame >= ends - durations[..., None])).float().to(model.device)
        pitch, loudness = model.predictor.F0Ntrain(planned.rhythm[some] @ spread, styles[:, _TIMBRE:])
        pitch = sung(pitch, *planned.melody[some].T[..., None])
        samples = model.decoder(planned.heard[some] @ spread, pitch, loudness, styles[:, :_TIMBRE])
        for own, count in zip(samples[:, 0].float().cpu().numpy(), frames.tolist(), strict=True):
            yield own[: count * _FRAME]


@dataclass(frozen=True)
class Manner:
    """How a sentence is spoken.

    Args:
        style: as in :attr:`Kokoro.styles`.
        pace: 1 as it is natural.
        unevenness: standard deviation of the logarithms of phonemes' durations around natural ones.
        pitch: factor of the voice's frequency.
        melody: how far the voice rises and falls, 1 as it is natural, 0 for not at all.
        seed: decides which phonemes last longer.
    """

    style: Tensor
    pace: float = 1.0
    unevenness: float = 0.0
    pitch: float = 1.0
    melody: float = 1.0
    seed: int = 0

    @classmethod
    def drawn(cls, style: Tensor, random: Random) -> Manner:
        """Of somebody who speaks in a style."""
        return cls(
            style,
            unevenness=random.uniform(0.0, 0.3),
            pitch=math.exp(random.uniform(-0.22, 0.22)),
            melody=random.uniform(0.5, 1.7),
        )

    def paces(self, signs: int) -> Tensor:
        """Of each phoneme, float32 [signs]."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.pace * torch.exp(self.unevenness * torch.randn(signs, generator=generator))


def sung(pitch: Tensor, factor: Tensor, melody: Tensor) -> Tensor:
    """The frequencies of voices, higher or lower, and with a wider or a narrower melody around their means.

    Args:
        pitch: in hertz, [n, frames]; voiceless where it is below :data:`_VOICED`.
        factor: of all frequencies, [n, 1].
        melody: of their distances from the mean, in octaves, [n, 1].
    """
    voiced = pitch > _VOICED
    octaves = pitch.clamp(min=_VOICED).log2()
    mean = (octaves * voiced).sum(1, keepdim=True) / voiced.sum(1, keepdim=True).clamp(min=1)
    changed = factor * torch.exp2(mean + melody * (octaves - mean))
    return torch.where(voiced, changed.clamp(*_PITCHES), pitch)


@dataclass(frozen=True)
class _Planned:
    """Sentences of which only the sound is missing.

    Args:
        durations: of each sign in frames, int64 [n, signs], on the CPU.
        lengths: signs of each sentence, int64 [n], on the CPU.
        styles: [n, style].
        rhythm: what pitch and loudness are computed from, [n, hidden, signs].
        heard: what the sound is computed from, [n, hidden, signs].
        melody: of each what :func:`sung` takes, [n, 2].
    """

    durations: Tensor
    lengths: Tensor
    styles: Tensor
    rhythm: Tensor
    heard: Tensor
    melody: Tensor

    @property
    def frames(self) -> Tensor:
        """Of each sentence, int64 [n]."""
        return self.durations.sum(1)


def _alike(frames: Sequence[int], most: int) -> Iterator[tuple[list[int], int]]:
    """Sentences of about the same length together, and the frames that each is spoken in.

    Lengths are few, powers of :data:`_MOST_SILENCE`: the convolutions plan anew for each.

    Args:
        frames: of each sentence.
        most: frames of all that are spoken together; 0 for one at a time, in its own length.
    """
    if not most:
        yield from (([at], own) for at, own in enumerate(frames))
        return
    alike: dict[int, list[int]] = {}
    for at, own in enumerate(frames):
        length = math.ceil(_MOST_SILENCE ** math.ceil(math.log(own, _MOST_SILENCE)))
        alike.setdefault(max(length, own), []).append(at)
    for length, places in alike.items():
        rows = 2 ** max((most // length).bit_length() - 1, 0)
        for start in range(0, len(places), rows):
            yield places[start : start + rows], length


@functools.cache
def kokoro() -> Kokoro:
    """The model of this process, on the current GPU if there is one."""
    return Kokoro(KOKORO_FOLDER, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def phonemes(text: str, accent: str) -> str:
    """What Kokoro is to say for ``text``: espeak-ng's phonemes in its signs, between the text's punctuation.

    Args:
        text: a sentence.
        accent: of espeak-ng, such as ``es-419``.
    """
    parts = []
    # Not what stands within a number or between letters, which is said.
    for said, mark in re.findall(r"(.*?)([,.;:!?]+(?!\w)|$)", text):
        signs = libraries.espeak().ipa(said, accent, tie="^") if said.strip() else ""
        for several, single in _SINGLE:
            signs = signs.replace(several, single)
        parts.append(signs + mark[:1])
    return " ".join(part for part in parts if part)


def style(language: str, sex: str, styles: dict[str, Tensor], random: Random) -> Tensor:
    """A style that speaks like a native and sounds like anybody.

    Args:
        language: ISO 639-1 code.
        sex: ``f`` or ``m``; of a language without such a speaker, others talk.
        styles: by speaker.
        random: who is drawn.
    """
    everybody = [name for name in styles if name[1] == sex]
    foreign = [name for name in everybody if name[0] in _ALPHABETS]
    natives = [name for name in everybody if name[0] in _LANGUAGES[language]]
    talks = styles[random.choice(natives or foreign)]
    sounds = talks
    if random.random() < 0.7:
        one, other = styles[random.choice(everybody)], styles[random.choice(everybody)]
        sounds = torch.lerp(one, other, random.choice((0.0, random.random())))
        if random.random() < 0.4:
            talks = torch.lerp(talks, styles[random.choice(foreign)], 0.4)
    return torch.cat([sounds[:, :_TIMBRE], talks[:, _TIMBRE:]], 1)


@dataclass(frozen=True)
class KokoroVoice:
    """Women or men; everything else about a speaker is drawn for each batch of sentences."""

    language: str
    sex: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"{_NAME}{self.sex}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`~pipeline.training.voices.Voice`."""
        return speak_together([(self, texts, random)])[0]


def is_neural(voice: str) -> bool:
    """Whether a name is that of a :class:`KokoroVoice`."""
    return voice.startswith(_NAME)


def speak_together(
    asked: Sequence[tuple[KokoroVoice, Sequence[str], Random]],
) -> list[list[Speech | None]]:
    """What each of several voices says, as it would alone; a GPU has too little to do with the texts of one.

    Args:
        asked: voices, each with its texts and what speaker and manners are drawn from.
    """
    engine = kokoro()
    sentences: list[str] = []
    manners: list[Manner] = []
    for voice, texts, random in asked:
        accent = random.choice(ACCENTS[voice.language])
        own = Manner.drawn(style(voice.language, voice.sex, engine.styles, random), random)
        sentences += [phonemes(text, accent) for text in texts]
        manners += [replace(own, pace=random.uniform(0.75, 1.35), seed=random.getrandbits(32)) for _ in texts]
    said = iter(engine.speak(sentences, manners))
    return [
        [None if one is None else trimmed(one * 32_767, RATE) for one in itertools.islice(said, len(texts))]
        for _, texts, _ in asked
    ]
