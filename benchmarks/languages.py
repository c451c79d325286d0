"""How often the language of an utterance is detected, and after how much speech.

    python -m benchmarks.languages [--human DIR] [--model DIR] [--limit 50]

Held-out sentences of every language that the model knows and that there are some of, spoken by voices of
espeak-ng that training never heard, or with ``--human`` recordings of people (:mod:`benchmarks.quality` says
of both what they are), go through a :class:`~pipeline.translation.SpeechTranslator` that is told ``auto``:
cut off behind 1 s, cut off behind 2 s, and whole. Each clip is the first utterance of a stream, so nothing
said before helps.

Printed is the share of clips whose final transcript names the language that was spoken; the last line is one
JSON object, ``{"1": {"es": ..., "en": ...}, "2": ..., "whole": ...}``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import NANO
from benchmarks.quality import Waveform, directions, recorded, sentences, spoken
from pipeline.config import SAMPLE_RATE, StreamConfig
from pipeline.gemma.prompt import AUTO
from pipeline.model import Gemma3n
from pipeline.speech import TAIL, SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.training.engines import held_out_voices
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Transcript

CUTS = {"1": 1.0, "2": 2.0, "whole": None}
"""Seconds of a clip that are heard."""


def detect(model: Gemma3n, waveform: Waveform) -> str | None:
    """The language that a stream finds in a waveform that is one utterance."""
    padded = np.concatenate([waveform, np.zeros(TAIL, np.float32)])
    tokens = model.encode_audio(torch.from_numpy(padded)).numpy()
    end = len(waveform) / SAMPLE_RATE
    translator = SpeechTranslator(model, StreamConfig(source=AUTO, targets=(), partials=False))
    events = [
        event
        for speech in (
            SpeechStarted(audio_time=0.0, time=0.0),
            SpeechHeard(audio_time=end, time=end, tokens=tokens),
            SpeechEnded(audio_time=end, time=end),
        )
        for event in translator.push(speech)
    ]
    return next(event.language for event in events if isinstance(event, Transcript) and event.final)


def clips_by_language(
    languages: Sequence[str], limit: int, human: Path | None = None
) -> dict[str, list[Waveform]]:
    """What is heard of each language; of those that ``human`` has recordings of, where it is given."""
    # English is spoken in several directions, and its recordings are the same in all of them.
    once = list({direction[0]: direction for direction in directions(languages)}.values())
    if human:
        clips = {source: some[:limit] for (source, _), some in recorded(human, once).items()}
    else:
        clips = {one[0]: spoken(sentences(one, limit), held_out_voices(one[0])) for one in once}
    return {language: [clip.waveform for clip in some] for language, some in clips.items()}


def measure(model: Gemma3n, clips: Mapping[str, Sequence[Waveform]]) -> dict[str, dict[str, float]]:
    """The share of clips whose language is detected, by what is heard of them and by language."""
    print(f"{'heard':<8}{'language':<10}{'clips':>6}{'right':>8}")
    shares: dict[str, dict[str, float]] = {}
    for name, seconds in CUTS.items():
        shares[name] = {}
        for language, waveforms in clips.items():
            cut = [wave if seconds is None else wave[: round(seconds * SAMPLE_RATE)] for wave in waveforms]
            right = sum(detect(model, wave) == language for wave in cut)
            shares[name][language] = right / len(cut)
            print(f"{name:<8}{language:<10}{len(cut):>6}{shares[name][language]:>8.3f}", flush=True)
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    parser.add_argument("--limit", type=int, default=50, help="clips of each language")
    parser.add_argument("--human", type=Path, metavar="DIR", help="recordings of people instead")
    options = parser.parse_args(argv)
    if options.limit < 1:
        parser.error("--limit must be above 0")
    torch.set_num_threads(1)
    model = Gemma3n.from_pretrained(options.model)
    clips = clips_by_language(model.prompt.languages, options.limit, options.human)
    if not clips:
        parser.error(f"{options.human} has no recordings in {', '.join(model.prompt.languages)}")
    print(json.dumps(measure(model, clips)))


if __name__ == "__main__":
    main()
