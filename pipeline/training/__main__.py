"""``python -m pipeline.training``: make the bundled model from sentence pairs, with one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch

from pipeline.config import SAMPLE_RATE, ModelConfig
from pipeline.gemma.prompt import LANGUAGES, Prompt, PromptTemplate
from pipeline.gemma.tokenizer import Tokenizer
from pipeline.training import engines, text, vocabulary
from pipeline.training import recipe as recipes
from pipeline.training.batches import Batcher
from pipeline.training.companions import companions
from pipeline.training.export import export, resume
from pipeline.training.learner import Learner
from pipeline.training.recipe import Recipe
from pipeline.training.replicas import Replicas, joined
from pipeline.training.synthesis import (
    SPEAKING_BESIDE,
    SPEAKING_FIRST,
    claim,
    complete,
    in_background,
    synthesise,
)
from pipeline.training.text import Pair
from pipeline.training.train import Budget, summary, train

HOURS_PER_CHUNK = 1 / 30
"""Room for the speech of one chunk; with sentences of everyday length it takes three quarters of it."""
DRAWING_PROCESSES = 4
"""For each GPU; one is enough for a CPU."""
MOST_HOURS = 220.0
"""Room for speech unless the command says otherwise: 25 GB."""


def tokenizer_texts(pairs: Sequence[Pair]) -> Iterator[str]:
    """What the vocabulary is made from: the sentences, and the prompts often enough to be whole words.

    Languages with little text come several times, so that they have their share of the tokens.
    """
    indices = text.by_language(pairs)
    often = text.shares({language: len(own) for language, own in indices.items()})
    weights = {language: often[language] / len(own) for language, own in indices.items()}
    for language, own in indices.items():
        for _ in range(round(weights[language] / min(weights.values()))):
            for index in own:
                yield from (f" {side}" for side in pairs[index].sides)
    names = [LANGUAGES[code] for code in (*indices, text.ENGLISH)]
    prompts = [
        f"user\n{recipes.INSTRUCTION.format(source=a, target=b)}\n\nmodel\n\n{b}:"
        for a in names
        for b in names
    ]
    yield from prompts * 1000


def build(recipe: Recipe, tokenizer: tokenizers.Tokenizer) -> tuple[Learner, dict[str, Any], Prompt]:
    """An untrained model with its configuration and prompt.

    Args:
        recipe: the sizes.
        tokenizer: with as many text tokens as the recipe says.
    """
    raw = recipes.config(recipe, tokenizer.get_vocab(with_added_tokens=True))
    learner = Learner(
        ModelConfig.from_dict(raw),
        letters=len(text.alphabet(recipe.languages)),
        dropout=recipe.dropout,
        smoothing=recipe.smoothing,
    )
    inner = type(tokenizer).from_str(tokenizer.to_str())
    return learner, raw, Prompt(Tokenizer(inner), recipes.template(recipe))


def main(argv: Sequence[str] | None = None) -> None:
    """Synthesise and train; see docs/training.md."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.training", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with split-{train,dev}.XX-en.tsv.gz")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--speech", type=Path, required=True, help="folder for synthesised speech, a fast disk"
    )
    parser.add_argument(
        "--languages",
        type=lambda codes: codes.split(","),
        default=Recipe().languages,
        metavar="XX,XX",
        help=f"of {','.join(text.LANGUAGES)}: English and others (default: es,en)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="wall-clock budget of the training proper"
    )
    parser.add_argument(
        "--engines", nargs="+", choices=engines.ENGINES, help="whose voices speak; all of them"
    )
    parser.add_argument(
        "--told", type=float, default=0.0, help="share of the batches to tell what was said before"
    )
    parser.add_argument(
        "--coded", type=float, default=0.0, help="share of the sentences to send through Opus"
    )
    parser.add_argument("--chunks", type=int, help="chunks of speech to synthesise at most")
    parser.add_argument(
        "--speak-minutes",
        type=float,
        default=0.0,
        help="synthesise for so long first, and no more on a GPU while the model trains",
    )
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 3))
    parser.add_argument("--pool-hours", type=float, help="hours of speech to hold in memory at most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", type=Path, help="checkpoint folder whose weights to start from")
    parser.add_argument("--compile", action="store_true", help="worth it from half an hour of training on")
    parser.add_argument("--tiny", action="store_true", help="the whole recipe, small enough for a CPU")
    options = parser.parse_args(argv)

    others = [code for code in dict.fromkeys(options.languages) if code != text.ENGLISH]
    if not others or not {text.ENGLISH, *others} <= {*options.languages} & {*text.LANGUAGES}:
        parser.error(f"--languages: en and others of {','.join(text.LANGUAGES)}, parted by commas")
    recipe = recipes.TINY if options.tiny else Recipe()
    recipe = recipes.speaking(recipe, (*others, text.ENGLISH))
    chunks = options.chunks or recipe.chunks
    recipe = replace(
        recipe,
        engines=tuple(options.engines or recipe.engines),
        coded=options.coded,
        told=options.told,
        chunks=chunks,
        first_chunks=min(recipe.first_chunks, chunks),
    )
    mute = [code for code in recipe.languages if not engines.training_voices(code, recipe.engines)]
    if mute:
        parser.error(f"no voice of {', '.join(recipe.engines)} speaks {', '.join(mute)}")
    missing = engines.missing_packages(recipe.engines, recipe.languages)
    if missing and not complete(options.speech, recipe.chunks):
        parser.error(
            f"not all voices of {', '.join(recipe.engines)} are installed; what is missing "
            f"(docs/training.md): {', '.join(missing)}"
        )

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    with joined(options.device) as (replicas, device):
        try:
            pairs, _ = text.load(options.text, recipe.languages, options.seed)
            replicas.shared(lambda: claim(options.speech, pairs, options.seed))
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        making_speech = partial(
            synthesise,
            pairs,
            options.speech,
            chunks=recipe.chunks,
            processes=options.processes,
            seed=options.seed,
            engines=recipe.engines,
            coded=recipe.coded,
        )
        if options.speak_minutes:
            seconds = options.speak_minutes * 60
            replicas.shared(partial(making_speech, per_gpu=SPEAKING_FIRST, seconds=seconds))
            making_speech = partial(making_speech, per_gpu=SPEAKING_BESIDE)
        with in_background(making_speech) if replicas.first else nullcontext(_made_elsewhere) as making:
            _train(recipe, pairs, options, replicas=replicas, device=device, making=making)


def _made_elsewhere() -> bool:
    """Whether speech is still made: the first process ends the others if it lacks speech."""
    return True


def _train(
    recipe: Recipe,
    pairs: Sequence[Pair],
    options: argparse.Namespace,
    *,
    replicas: Replicas,
    device: torch.device,
    making: Callable[[], bool],
) -> None:
    def log(line: str) -> None:
        if replicas.first:
            print(line, flush=True)

    torch.manual_seed(options.seed)
    if options.resume and PromptTemplate.from_pretrained(options.resume).languages == recipe.languages:
        tokenizer = tokenizers.Tokenizer.from_file(str(options.resume / "tokenizer.json"))
    else:
        made = replicas.shared(lambda: vocabulary.train(tokenizer_texts(pairs), recipe.text_tokens).to_str())
        tokenizer = tokenizers.Tokenizer.from_str(made)
    learner, raw, prompt = build(recipe, tokenizer)
    if options.resume:
        resume(learner, options.resume, tokenizer)
        recipe = recipes.resumed(recipe)
    if options.compile:
        # On a GPU graphs take the place of most of it, and a start takes seconds and not minutes.
        (learner.compile_stem if device.type == "cuda" else learner.compile_blocks)()
    log(f"{len(pairs)} pairs, {recipe.chunks} chunks of speech at most; parameters {summary(learner)}")
    drawing = DRAWING_PROCESSES if device.type == "cuda" else 1
    together = companions(pairs) if recipe.told else {}
    batchers = [
        Batcher(
            pairs,
            prompt,
            audio_id=learner.config.audio_token_id,
            buckets=recipe.buckets,
            seed=options.seed * 1000 + replicas.rank * drawing + process,
            unreadable=recipe.unreadable,
            told=recipe.told,
            companions=together,
            mask_id=tokenizer.get_vocab()[vocabulary.UNKNOWN],
        )
        for process in range(drawing)
    ]

    def checkpoint(step: int) -> None:
        if replicas.first:
            export(learner, raw, tokenizer, recipes.template(recipe), options.out)

    hours = options.pool_hours or min(MOST_HOURS, recipe.chunks * HOURS_PER_CHUNK)
    steps = train(
        learner,
        recipe,
        batchers,
        folder=options.speech,
        budget=Budget(options.steps, options.minutes * 60),
        device=device,
        seed=options.seed,
        pool_samples=int(hours * 3600 * SAMPLE_RATE),
        making=making,
        replicas=replicas,
        log=log,
        checkpoint=checkpoint,
    )
    log(f"trained for {steps} steps; checkpoint in {options.out}")


if __name__ == "__main__":
    main()
