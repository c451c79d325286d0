"""Speed and quality of the MatFormer sub-models of one loaded model, and a search for good ones.

    python -m benchmarks.matformer [--sentences 60] [--model DIR] [--plot docs/images/matformer.png]
    python -m benchmarks.matformer --device cuda

On the CPU: held-out sentences are spoken by held-out voices (:mod:`benchmarks.quality`), Spanish and English,
and encoded once. One part of them is for validation: on it, widths are searched layer by layer
(:mod:`benchmarks.narrowing`). The loss is the cross-entropy, per token, of the right transcript and
translation behind their audio. On the other part, sub-models that were found and the uniform ones of the same
size are compared: loss, and WER and BLEU of what they say, means of both directions. Parameters are those of
the text core, without embedding tables; speed is that of decoding one sequence, in turns, on one thread.

Then, what a change of sub-model costs in mid-sequence, and whether drafts of a sub-model that is narrow above
the sharing point pay (:mod:`benchmarks.elastic`).

On a GPU: a model of E4B's size with random weights in bfloat16, the speed of its published sub-models as
views of it, and the same costs. Such a model says nothing, so there is no WER and no BLEU.

Prints tables, draws a plot if told where to, and ends with one JSON line: ``points`` (name, params, wer,
bleu, tokens_per_s), ``search`` (losses on the part that was not searched on), ``switch`` and ``drafting``, in
seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import elastic, quality
from benchmarks.models import NANO, published
from benchmarks.narrowing import search, uniform
from benchmarks.quality import Answer, Clip
from pipeline.batching import Batch
from pipeline.config import StreamConfig, TextConfig
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.greedy import Segment
from pipeline.gemma.matformer import PRESETS, Widths, sliced
from pipeline.model import Gemma3n
from pipeline.training.engines import held_out_voices
from pipeline.translation import SpeechTranslator

DIRECTIONS = (("es", "en"), ("en", "es"))

SIZES = (0.375, 0.625, 0.75)
"""For which it searches: share of all feed-forwards together."""

BATCH = 16
"""Clips whose loss is computed together."""

REPEAT, GPU_REPEAT = 9, 3
"""Measurements of a speed, on a CPU and on a GPU."""


@dataclass(frozen=True)
class Point:
    """One sub-model.

    Attributes:
        name: ``whole``, ``half``, or how its widths came about and for which size; on a GPU the preset's.
        params: of its text core.
        wer: of transcripts, a fraction.
        bleu: of translations, 0 to 100.
        tokens_per_s: of decoding one sequence.
        ffn_widths: by layer.
    """

    name: str
    params: int
    wer: float | None
    bleu: float | None
    tokens_per_s: float
    ffn_widths: Widths


@dataclass(frozen=True)
class Heard:
    """A clip and what the encoder made of it.

    Attributes:
        clip: the sound and what is right.
        source: its language.
        target: the other one.
        tokens: soft tokens, [n, text_hidden].
    """

    clip: Clip
    source: str
    target: str
    tokens: Tensor


@dataclass(frozen=True)
class Lesson:
    """Clips of one batch with the right answers behind them.

    Attributes:
        ids: [B, T], padded on the right.
        embeddings: [B, T, hidden].
        places: where in B * T the positions are that say a token of an answer.
        answers: these tokens.
    """

    ids: Tensor
    embeddings: Tensor
    places: Tensor
    answers: Tensor


def core_parameters(config: TextConfig, widths: Widths) -> int:
    """Parameters of a sub-model's decoder without its embedding tables."""
    with torch.device("meta"):
        decoder = Decoder(sliced(config, widths))
    tables = (decoder.embed_tokens, decoder.embed_tokens_per_layer)
    return sum(p.numel() for p in decoder.parameters()) - sum(table.weight.numel() for table in tables)


def hear(model: Gemma3n, pairs: Sequence[tuple[str, str]]) -> list[Heard]:
    """Have pairs spoken in both languages and encode that."""
    heard = []
    for source, target in DIRECTIONS:
        said = pairs if source == "es" else [(english, spanish) for spanish, english in pairs]
        for clip in quality.spoken(said, held_out_voices(source)):
            tokens = torch.from_numpy(quality.encode(model, clip.waveform))
            heard.append(Heard(clip, source, target, tokens))
    return heard


def lessons(model: Gemma3n, heard: Sequence[Heard]) -> list[Lesson]:
    """Batches of clips of similar length, embedded."""
    prompt, audio_id = model.prompt, model.config.audio_token_id
    (end,) = model.tokenizer.special("<end_of_turn>")
    rows = []
    for item in heard:
        before = prompt.before_audio(item.source, item.target)
        given = [*before, *[audio_id] * len(item.tokens), *prompt.after_audio()]
        meant = prompt.words(item.clip.translation or "")
        answer = [*prompt.words(item.clip.transcript), *prompt.translation_label(item.target), *meant, end]
        rows.append((given, answer, item.tokens))
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    return [_lesson(model, rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]


def _lesson(model: Gemma3n, rows: Sequence[tuple[list[int], list[int], Tensor]]) -> Lesson:
    length = max(len(given) + len(answer) for given, answer, _ in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    places = []
    for at, (given, answer, _) in enumerate(rows):
        ids[at, : len(given) + len(answer)] = torch.tensor([*given, *answer])
        places += range(at * length + len(given) - 1, at * length + len(given) + len(answer) - 1)
    audio = torch.cat([tokens for _, _, tokens in rows])
    embeddings = model.embed(ids.view(1, -1), audio).view(*ids.shape, -1)
    answers = torch.tensor([token for _, answer, _ in rows for token in answer])
    return Lesson(ids, embeddings, torch.tensor(places), answers)


def cross_entropy(model: Gemma3n, batches: Sequence[Lesson], widths: Widths) -> float:
    """Loss of a sub-model per token of the answers."""
    decoder, total, count = model.language_model, 0.0, 0
    for batch in batches:
        hidden = decoder.hidden(batch.ids, batch.embeddings, ffn_widths=widths)
        logits = decoder.logits(hidden.flatten(0, 1)[batch.places])
        total += float(F.cross_entropy(logits, batch.answers, reduction="sum"))
        count += len(batch.answers)
    return total / count


def answers(model: Gemma3n, heard: Sequence[Heard], widths: Widths) -> list[Answer]:
    """What a sub-model says to clips, which it decodes beside each other."""
    pool, batch = model.new_pool(), Batch[int, Segment, list[int], Answer](model.step)
    for at, item in enumerate(heard):
        config = StreamConfig(item.source, (item.target,), partials=False)
        translator = SpeechTranslator(model, config, pool, widths)
        batch.add(at, quality.answering(translator, item.tokens.numpy()))
    said: dict[int, Answer] = {}
    while len(batch):
        for at, answer in batch.step():
            if isinstance(answer, Exception):
                raise answer
            said[at] = answer
    return [said[at] for at in range(len(heard))]


def judge(model: Gemma3n, heard: Sequence[Heard], widths: Widths) -> tuple[float, float]:
    """WER and BLEU of what a sub-model says, means of both directions."""
    scores = []
    for direction in DIRECTIONS:
        clips = [item for item in heard if (item.source, item.target) == direction]
        scores.append(quality.score([item.clip for item in clips], answers(model, clips, widths)))
    wer, bleu = (sum(score[name] for score in scores) / len(scores) for name in ("wer", "bleu"))
    return wer, bleu


def measure(model: Gemma3n, sentences: int) -> dict[str, Any]:
    """All that is measured of a model that understands speech.

    Args:
        model: on the CPU.
        sentences: how many to judge by, and as many to search by.
    """
    config = model.config.text
    pairs = quality.held_out_pairs()
    judged = hear(model, pairs[:sentences])
    validation, test = lessons(model, hear(model, pairs[-sentences:])), lessons(model, judged)
    found = search(config, SIZES, lambda widths: cross_entropy(model, validation, widths))
    names = {"whole": config.intermediate_size, "half": uniform(config, 0.5)}
    names |= {f"search {size:.1%}": widths for size, widths in zip(SIZES, found, strict=True)}
    names |= {f"uniform {size:.1%}": uniform(config, size) for size in SIZES}
    prompt = model.prompt.before_audio("es", "en")
    speeds = elastic.step_seconds(model, prompt, [*names.values()], REPEAT)
    points = [
        Point(name, core_parameters(config, widths), *judge(model, judged, widths), 1 / seconds, widths)
        for (name, widths), seconds in zip(names.items(), speeds, strict=True)
    ]
    compared = [
        {
            "size": size,
            "searched": cross_entropy(model, test, widths),
            "uniform": cross_entropy(model, test, uniform(config, size)),
            "ffn_widths": widths,
        }
        for size, widths in zip(SIZES, found, strict=True)
    ]
    half = uniform(config, 0.5)
    narrow = elastic.narrow_above(config, half)
    spanish = [item.tokens for item in judged if item.source == "es"][: max(1, sentences // 4)]
    ten_seconds = [*prompt, *prompt * (63 // len(prompt))]
    return {
        "points": [asdict(point) for point in points],
        "search": compared,
        "switch": asdict(elastic.switch(model, ten_seconds, narrow, half, REPEAT)),
        "drafting": asdict(elastic.drafting(model, spanish, "es", "en", narrow)),
    }


def measure_published(model: Gemma3n) -> dict[str, Any]:
    """Speeds of the published sub-models of a model of E4B's size, whose words mean nothing."""
    config = model.config.text
    names = {"e4b": config.intermediate_size}
    names |= {name: mix.widths(config) for name, mix in PRESETS.items()}
    prompt = list(range(2, 130))
    speeds = elastic.step_seconds(model, prompt, [*names.values()], GPU_REPEAT)
    points = [
        Point(name, core_parameters(config, widths), None, None, 1 / seconds, widths)
        for (name, widths), seconds in zip(names.items(), speeds, strict=True)
    ]
    narrow = elastic.narrow_above(config, names["e3.24-block"])
    cost = elastic.switch(model, prompt, narrow, names["e2b"], GPU_REPEAT)
    return {"points": [asdict(point) for point in points], "switch": asdict(cost)}


def table(result: dict[str, Any]) -> str:
    """Results for people."""
    lines = [f"{'sub-model':<14}{'parameters':>14}{'WER %':>8}{'BLEU':>7}{'tokens/s':>10}  FFN widths"]
    for point in sorted(result["points"], key=lambda point: -point["params"]):
        wer = "-" if point["wer"] is None else f"{100 * point['wer']:.1f}"
        bleu = "-" if point["bleu"] is None else f"{point['bleu']:.1f}"
        widths = " ".join(map(str, point["ffn_widths"])) if len(point["ffn_widths"]) <= 12 else ""
        lines.append(
            f"{point['name']:<14}{point['params']:>14,}{wer:>8}{bleu:>7}"
            f"{point['tokens_per_s']:>10.1f}  {widths}"
        )
    if "search" in result:
        lines += ["", f"{'size':<8}{'loss searched':>14}{'loss uniform':>14}"]
        lines += [f"{x['size']:<8.1%}{x['searched']:>14.4f}{x['uniform']:>14.4f}" for x in result["search"]]
    cost = {name: f"{1e3 * seconds:.2f} ms" for name, seconds in result["switch"].items()}
    lines += [
        "",
        f"decode step                           {cost['step']}",
        f"each in another sub-model of a group  {cost['within']}",
        f"change to another group               {cost['prefill']}",
    ]
    if "drafting" in result:
        cost = {name: f"{1e3 * seconds:.2f} ms" for name, seconds in result["drafting"].items()}
        lines += [
            "",
            f"a hypothesis without draft            {cost['none']}",
            f"with the one before                   {cost['previous']}",
            f"and drafts of its own behind that     {cost['itself']}",
            f"if looking at these cost nothing      {cost['itself_free']}",
            f"narrow step to wide step              {result['drafting']['step_ratio']:.2f}",
        ]
    return "\n".join(lines)


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot quality and speed over parameters."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    kinds = {"trained or published": "ko", "search": "C0^-", "uniform": "C1v--"}
    sides = [("tokens_per_s", "tokens/s", 1.0)]
    if points[0]["wer"] is not None:
        sides = [("wer", "WER %", 100.0), ("bleu", "BLEU", 1.0), *sides]
    figure, axes = pyplot.subplots(1, len(sides), figsize=(4.2 * len(sides), 3.4), squeeze=False)
    for axis, (key, label, factor) in zip(axes[0], sides, strict=True):
        for kind, style in kinds.items():
            members = [point for point in points if _kind(point["name"]) == kind]
            members.sort(key=lambda point: point["params"])
            axis.plot(
                [point["params"] / 1e6 for point in members],
                [point[key] * factor for point in members],
                style,
                label=kind,
            )
        axis.set(xlabel="parameters of the text core, millions", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _kind(name: str) -> str:
    kind, _, size = name.partition(" ")
    return kind if size else "trained or published"


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sentences", type=int, default=60, help="to judge by, and as many to search by")
    parser.add_argument("--model", default=str(NANO), help="for the CPU; by default the bundled one")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the points; needs matplotlib")
    options = parser.parse_args(argv)
    if not 1 <= options.sentences <= len(quality.held_out_pairs()) // 2:
        parser.error(f"--sentences must be from 1 to {len(quality.held_out_pairs()) // 2}")
    if options.device == "cpu":
        result = {"device": "cpu", **measure(Gemma3n.from_pretrained(options.model), options.sentences)}
    else:
        model, _ = published("e4b", torch.device("cuda"))
        result = {"device": torch.cuda.get_device_name(), **measure_published(model)}
    print(table(result))
    if options.plot is not None:
        draw(result["points"], options.plot)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
