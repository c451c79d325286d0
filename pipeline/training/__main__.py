"""``python -m pipeline.training``: make the bundled model from sentence pairs, with one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
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
from pipeline.training.export import export, resume
from pipeline.training.recipe import Recipe
from pipeline.training.synthesis import claim, complete, in_background, synthesise
from pipeline.training.text import Pair
from pipeline.training.train import Budget, Learner, summary, train

HOURS_PER_CHUNK = 1 / 30
"""Room for the speech of one chunk; with sentences of everyday length it takes three quarters of it."""
MOST_HOURS = 220.0
"""Room for speech unless the command says otherwise: 25 GB."""


def tokenizer_texts(pairs: Sequence[Pair]) -> list[str]:
    """What the vocabulary is made from: the sentences, and the prompts often enough to be whole words."""
    names = [LANGUAGES[code] for code in recipes.LANGUAGES]
    prompts = [
        f"user\n{recipes.INSTRUCTION.format(source=a, target=b)}\n\nmodel\n\n{b}:"
        for a in names
        for b in names
    ]
    return [f" {side}" for pair in pairs for side in (pair.source, pair.target)] + prompts * 1000


def build(
    recipe: Recipe, pairs: Sequence[Pair], vocabulary_file: Path | None = None
) -> tuple[Learner, dict[str, Any], tokenizers.Tokenizer, Prompt]:
    """An untrained model with its configuration, tokenizer and prompt.

    Args:
        recipe: the sizes.
        pairs: the text that the vocabulary is made from.
        vocabulary_file: ``tokenizer.json`` to take instead.
    """
    if vocabulary_file:
        tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary_file))
    else:
        tokenizer = vocabulary.train(tokenizer_texts(pairs), recipe.text_tokens)
    raw = recipes.config(recipe, tokenizer.get_vocab(with_added_tokens=True))
    learner = Learner(ModelConfig.from_dict(raw))
    template = PromptTemplate(recipes.LANGUAGES, recipes.INSTRUCTION)
    inner = type(tokenizer).from_str(tokenizer.to_str())
    return learner, raw, tokenizer, Prompt(Tokenizer(inner), template)


def main(argv: Sequence[str] | None = None) -> None:
    """Synthesise and train; see docs/training.md."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.training", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with split-{train,dev}.es-en.tsv.gz")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--speech", type=Path, required=True, help="folder for synthesised speech, a fast disk"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="wall-clock budget of the training proper"
    )
    parser.add_argument(
        "--engines", nargs="+", choices=engines.ENGINES, help="whose voices speak; all of them"
    )
    parser.add_argument("--chunks", type=int, help="chunks of speech to synthesise at most")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 3))
    parser.add_argument("--pool-hours", type=float, help="hours of speech to hold in memory at most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", type=Path, help="checkpoint folder whose weights to start from")
    parser.add_argument("--compile", action="store_true", help="worth it from half an hour of training on")
    parser.add_argument("--tiny", action="store_true", help="the whole recipe, small enough for a CPU")
    options = parser.parse_args(argv)

    recipe = recipes.TINY if options.tiny else Recipe()
    chunks = options.chunks or recipe.chunks
    recipe = replace(
        recipe,
        engines=tuple(options.engines or recipe.engines),
        chunks=chunks,
        first_chunks=min(recipe.first_chunks, chunks),
    )
    mute = [code for code in recipes.LANGUAGES if not engines.training_voices(code, recipe.engines)]
    if mute:
        parser.error(f"no voice of {', '.join(recipe.engines)} speaks {', '.join(mute)}")
    missing = engines.missing_packages(recipe.engines)
    if missing and not complete(options.speech, recipe.chunks):
        parser.error(
            f"not all voices of {', '.join(recipe.engines)} are installed; on Debian: "
            f"apt-get install {' '.join(missing)}"
        )

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    try:
        pairs, _ = text.load(options.text, options.seed)
        claim(options.speech, pairs, options.seed)
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
    )
    with in_background(making_speech) as making:
        torch.manual_seed(options.seed)
        learner, raw, tokenizer, prompt = build(
            recipe, pairs, options.resume / "tokenizer.json" if options.resume else None
        )
        if options.resume:
            resume(learner, options.resume)
            recipe = recipes.resumed(recipe)
        if options.compile:
            learner.compile_blocks()
        print(f"{len(pairs)} pairs; parameters {summary(learner)}", flush=True)
        batchers = [
            Batcher(
                pairs,
                prompt,
                audio_id=learner.config.audio_token_id,
                buckets=recipe.buckets,
                seed=options.seed * 1000 + process,
            )
            for process in range(2 if options.device == "cuda" else 1)
        ]
        hours = options.pool_hours or min(MOST_HOURS, recipe.chunks * HOURS_PER_CHUNK)
        steps = train(
            learner,
            recipe,
            batchers,
            folder=options.speech,
            budget=Budget(options.steps, options.minutes * 60),
            device=torch.device(options.device),
            seed=options.seed,
            pool_samples=int(hours * 3600 * SAMPLE_RATE),
            making=making,
            log=lambda line: print(line, flush=True),
            checkpoint=lambda _: export(learner, raw, tokenizer, options.out),
        )
    print(f"trained for {steps} steps; checkpoint in {options.out}", flush=True)


if __name__ == "__main__":
    main()
