"""What a reader of the subtitles gets: how early, how steady, how right.

    python -m benchmarks.live [--model DIR] [--url ws://HOST:PORT/v1/stream] [--direction es-en en-es ...]
        [--engine espeak-ng|mbrola] [--sentences 16] [--frame 40] [--policy agreement|delay|attention]
        [--noise-seconds 600] [--output DIR]
    python -m benchmarks.live --human DIR [any of the above]
    python -m benchmarks.live --policies [--model DIR] [--direction ...] [--sentences 16] [--output DIR]

Talks of held-out sentences, in voices that training never heard (:mod:`benchmarks.talks`; needs
``espeak-ng``), one for each direction, go through a running service over its WebSocket at real time, in
frames of ``--frame`` milliseconds, one talk after the other. Without ``--url`` a server is started for that.
From the events and the times of their arrival come the hypothesis file of OmniSTEval and logs in the format
of simulstream, one of stable text and one of all text; OmniSTEval (in the extra ``bench``) scores the former.
All files are in ``--output``.

Besides, in this process and as fast as it goes: the same sentences, each as one clip, for the quality that
there is without any hurry (``bleu_offline``); minutes of silence, noise, hum and chords, in which every final
word is one too many (``hallucinated_words``); and the CPU time of four targets over that of one
(``cost_4_targets``; a language that the model was not made for takes as long as another).

``--human`` has talks of recordings of people instead, those of a folder (as :mod:`benchmarks.quality` wants
it) whose translation is known; the last two, which are not about them, are left out.

``--policies`` draws the curve of quality against latency: every policy at several settings, over the same
talks, in this process; latency is then computation-unaware, and ``cpu`` is CPU time per second of audio.

Latencies: LongYAAL of translations, computation-unaware (``longyaal_cu_s``) and -aware (``longyaal_ca_s``);
``final_p50_s`` and ``final_p95_s``, from the end of a sentence to the final translation of the utterance that
ends with it; ``erasure_stable`` and ``erasure_tentative``, words of the translation taken back per final
word. Figures are means over the directions, but for the percentiles, which are of all sentences. The last
line is one JSON object, with the figures of each direction under ``directions``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import sacrebleu
import torch
from numpy.typing import NDArray

from benchmarks.models import NANO
from benchmarks.quality import ENGINES, directions, hear_whole, normalise
from benchmarks.service import paced, serving
from benchmarks.simul import (
    Arrival,
    erasure,
    final_latencies,
    omnisteval,
    output,
    texts,
    write_simulstream_logs,
)
from benchmarks.talks import Talk, held_out_talks, nobody, recorded_talks
from pipeline.audio.pcm import to_s16le
from pipeline.config import BEAMS, POLICIES, SAMPLE_RATE, PolicyConfig, StreamConfig
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire.commands import Start
from workers.client import converse

DEFAULT = ("es-en", "en-es")
"""Directions that are measured where none are named."""

PAUSES = (0.3, 1.2)
"""Least and most seconds between two sentences of a talk."""

CURVE = (
    *(PolicyConfig("agreement", agreement=n) for n in (1, 2, 3)),
    *(PolicyConfig("delay", delay=seconds) for seconds in (0.64, 1.28, 2.56)),
    *(PolicyConfig("attention", newest=seconds) for seconds in (0.16, 0.32, 0.48, 0.64, 0.96)),
)
"""What ``--policies`` compares."""

FRAME = 0.1
"""Seconds of a frame where nothing is paced."""

OTHERS = ("fr", "it", "pt", "de")
"""Languages for the cost of further targets."""


async def hear_paced(url: str, talk: Talk, policy: PolicyConfig, frame: float) -> list[Arrival]:
    """Send a talk to a service at real time; what came back, and when.

    Raises:
        SurtitleError: the service cannot be reached or ends the stream.
    """
    loop = asyncio.get_running_loop()
    data = to_s16le(talk.waveform)
    start = Start(source=talk.source, targets=(talk.target,), policy=policy)
    begin = 0.0

    async def speak() -> AsyncIterator[bytes]:
        nonlocal begin
        begin = loop.time()
        async for piece in paced(data, 2 * round(frame * SAMPLE_RATE), begin):
            yield piece

    return [Arrival(event, loop.time() - begin) async for event in converse(url, start, speak())]


def hear_fast(
    model: Gemma3n, waveform: NDArray[np.float32], source: str, config: StreamConfig
) -> list[Arrival]:
    """The same as fast as it goes, in this process; an event comes as soon as its audio is there."""
    config = replace(config, beams=BEAMS)  # as a server's
    stream = Stream(model, source, config.targets, config=config)
    arrivals = []
    step = round(FRAME * SAMPLE_RATE)
    for at in range(0, len(waveform), step):
        arrivals += stream.feed(to_s16le(waveform[at : at + step]))
    arrivals += stream.close()
    return [Arrival(event, event.audio_time) for event in arrivals]


def scored(talk: Talk, arrivals: Sequence[Arrival], folder: Path) -> dict[str, float]:
    """Scores of one talk, without :func:`percentiles`; OmniSTEval's files stay in ``folder``."""
    scores = omnisteval([talk], [output(arrivals, talk.target)], folder)
    transcript = " ".join(output(arrivals, None).words)
    spoken = " ".join(sentence.said for sentence in talk.sentences)
    return {
        # Of a talk in which nothing was said there is no latency.
        "longyaal_cu_s": scores.get("LongYAAL (CU)", math.nan) / 1000,
        "longyaal_ca_s": scores.get("LongYAAL (CA)", math.nan) / 1000,
        "laal_cu_s": scores.get("LongLAAL (CU)", math.nan) / 1000,
        "bleu_live": scores["BLEU"],
        "chrf_live": scores["chrF"],
        "wer": jiwer.wer(normalise(spoken), normalise(transcript)),
        "erasure_stable": erasure(arrivals, talk.target, tentative=False),
        "erasure_tentative": erasure(arrivals, talk.target, tentative=True),
    }


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each score."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def percentiles(talks: Sequence[Talk], heard: Sequence[Sequence[Arrival]]) -> dict[str, float]:
    """How late final translations are."""
    pairs = zip(talks, heard, strict=True)
    latencies = [latency for talk, arrivals in pairs for latency in final_latencies(arrivals, talk)]
    p50, p95 = np.percentile(latencies, [50, 95]) if latencies else (math.nan,) * 2
    return {"final_p50_s": float(p50), "final_p95_s": float(p95)}


def measure(
    talks: Sequence[Talk], heard: Sequence[Sequence[Arrival]], folder: Path
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores of talks, each in a direction of its own: over all of them, and by direction."""
    rows = {
        direction(talk): scored(talk, arrivals, folder / direction(talk))
        for talk, arrivals in zip(talks, heard, strict=True)
    }
    overall = means(list(rows.values())) | percentiles(talks, heard)
    for talk, arrivals in zip(talks, heard, strict=True):
        rows[direction(talk)] |= percentiles([talk], [arrivals])
    return overall, rows


def direction(talk: Talk) -> str:
    """As ``--direction`` has it."""
    return f"{talk.source}-{talk.target}"


def offline(model: Gemma3n, talk: Talk) -> float:
    """BLEU of a talk's sentences, each heard whole and by itself."""
    answers = [hear_whole(model, clip.waveform, talk.source, talk.target) for clip in talk.clips]
    meant = [sentence.meant for sentence in talk.sentences]
    return sacrebleu.corpus_bleu([translation for _, translation in answers], [meant]).score


def hallucinated(model: Gemma3n, seconds: float) -> int:
    """Final words of the transcript of audio in which nobody speaks."""
    arrivals = hear_fast(model, nobody(seconds), "es", StreamConfig(targets=("en",)))
    return sum(len(event.stable.split()) for event, _ in texts(arrivals, None) if event.final)


def cost(model: Gemma3n, talk: Talk, targets: int = 4) -> float:
    """CPU time of a stream with so many targets over that with one."""
    languages = model.prompt.languages
    model.prompt.languages = (*languages, *(other for other in OTHERS if other not in languages))
    others = [other for other in model.prompt.languages if other not in (talk.source, talk.target)]
    seconds = []
    try:
        for count in (1, 1, targets):  # the first to warm up
            config = StreamConfig(targets=(talk.target, *others[: count - 1]))
            begin = time.process_time()
            hear_fast(model, talk.waveform, talk.source, config)
            seconds.append(time.process_time() - begin)
    finally:
        model.prompt.languages = languages
    return seconds[2] / seconds[1]


def curve(model: Gemma3n, talks: Sequence[Talk], folder: Path) -> list[dict[str, Any]]:
    """Quality and latency of every policy at several settings."""
    print("policy              LongYAAL   LAAL   BLEU   chrF    WER  taken back   CPU")
    rows = []
    for policy in CURVE:
        setting = {"agreement": policy.agreement, "delay": policy.delay, "attention": policy.newest}
        name = f"{policy.kind} {setting[policy.kind]:g}"
        begin = time.process_time()
        heard = [
            hear_fast(model, talk.waveform, talk.source, StreamConfig(targets=(talk.target,), policy=policy))
            for talk in talks
        ]
        cpu = (time.process_time() - begin) / sum(len(talk.waveform) / SAMPLE_RATE for talk in talks)
        scores, _ = measure(talks, heard, folder / name.replace(" ", "-"))
        rows.append({"policy": policy.kind, "setting": setting[policy.kind], **scores, "cpu": cpu})
        print(
            f"{name:<18}{scores['longyaal_cu_s']:>8.2f} s{scores['laal_cu_s']:>5.2f} s"
            f"{scores['bleu_live']:>7.1f}{scores['chrf_live']:>7.1f}{scores['wer']:>7.1%}"
            f"{scores['erasure_tentative']:>12.2f}{cpu:>6.2f}",
            flush=True,
        )
    return rows


async def _hear_all(
    url: str, talks: Sequence[Talk], policy: PolicyConfig, frame: float
) -> list[list[Arrival]]:
    # The first stream of a server has it compile and allocate.
    brief = replace(talks[0], waveform=talks[0].waveform[: 2 * SAMPLE_RATE])
    await hear_paced(url, brief, policy, frame)
    return [await hear_paced(url, talk, policy, frame) for talk in talks]


async def _hear_all_from_own(
    model: Path, talks: Sequence[Talk], policy: PolicyConfig, frame: float
) -> list[list[Arrival]]:
    async with serving(None, "--model", str(model)) as server:
        return await _hear_all(server.url, talks, policy, frame)


def _table(rows: dict[str, dict[str, float]]) -> str:
    """Figures by direction, for people."""
    names = ("longyaal_cu_s", "bleu_live", "bleu_offline", "wer", "final_p95_s", "erasure_tentative")
    lines = ["direction" + "".join(f"{name:>18}" for name in names)]
    for name, row in rows.items():
        lines.append(f"{name:<9}" + "".join(f"{row[column]:>18.3f}" for column in names))
    return "\n".join(lines)


def _rounded(result: dict[str, Any]) -> dict[str, Any]:
    """For JSON, which has no word for what is not a number."""
    numbers = {name: round(value, 4) for name, value in result.items() if isinstance(value, float)}
    return result | {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _options(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    parser.add_argument("--url", help="of a running service that has the same model")
    parser.add_argument("--direction", nargs="+", metavar="XX-XX", help="by default es-en and en-es")
    parser.add_argument("--human", type=Path, metavar="DIR", help="recordings of people instead")
    parser.add_argument("--sentences", type=int, default=16, help="in each talk")
    parser.add_argument("--frame", type=int, default=40, help="milliseconds of a client's frame")
    parser.add_argument("--policy", choices=POLICIES, default=PolicyConfig().kind)
    parser.add_argument("--policies", action="store_true", help="compare all policies instead")
    parser.add_argument("--engine", choices=ENGINES, default="espeak-ng", help="whose voices speak")
    parser.add_argument("--noise-seconds", type=float, default=600.0, help="in which nobody speaks")
    parser.add_argument("--output", type=Path, help="where files go; by default nowhere that stays")
    options = parser.parse_args(argv)
    if options.sentences < 1 or not 20 <= options.frame <= 100 or options.noise_seconds < 1:
        parser.error("--sentences must be at least 1, --frame from 20 to 100, --noise-seconds at least 1")
    return parser, options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser, options = _options(argv)
    torch.set_num_threads(1)
    model = Gemma3n.from_pretrained(options.model)
    known = {f"{source}-{target}": (source, target) for source, target in directions(model.languages)}
    names = options.direction or (known if options.human else DEFAULT)
    if unknown := set(names) - known.keys():
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    # Told at once, and not when everything has been heard.
    if find_spec("omnisteval") is None:
        parser.error("the scorer is not installed: pip install 'surtitle[bench]'")
    wanted = [known[name] for name in names]
    if options.human:
        talks = recorded_talks(options.human, wanted, options.sentences, PAUSES)
    else:
        talks = held_out_talks(wanted, options.sentences, PAUSES, options.engine)
    if not talks:
        parser.error(f"no recording in {options.human} has a known translation")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        if options.policies:
            rows = [_rounded(row) for row in curve(model, talks, folder)]
            bleu = float(np.mean([offline(model, talk) for talk in talks]))
            print(f"each sentence by itself: BLEU {bleu:.1f}")
            print(json.dumps({"policies": rows, "bleu_offline": bleu}))
            return
        policy = PolicyConfig(options.policy)
        frame = options.frame / 1000
        heard = asyncio.run(
            _hear_all(options.url, talks, policy, frame)
            if options.url
            else _hear_all_from_own(options.model, talks, policy, frame)
        )
        overall, by_direction = measure(talks, heard, folder)
        write_simulstream_logs(talks, heard, folder)
    for talk in talks:
        by_direction[direction(talk)]["bleu_offline"] = offline(model, talk)
    result: dict[str, Any] = dict(overall)
    result["bleu_offline"] = float(np.mean([row["bleu_offline"] for row in by_direction.values()]))
    if not options.human:
        result["hallucinated_words"] = hallucinated(model, options.noise_seconds)
        result["cost_4_targets"] = cost(model, talks[0])
    result |= {"policy": options.policy, "sentences": sum(len(talk.sentences) for talk in talks)}
    print(_table(by_direction))
    for name, value in result.items():
        print(f"{name:<20}{value:>10.3f}" if isinstance(value, float) else f"{name:<20}{value:>10}")
    result["directions"] = {name: _rounded(row) for name, row in by_direction.items()}
    print(json.dumps(_rounded(result)))


if __name__ == "__main__":
    main()
