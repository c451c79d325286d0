"""``python -m pipeline.training``: make the bundled model from sentence pairs, with one command and a seed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path

import tokenizers
import torch

from pipeline.config import ModelConfig
from pipeline.gemma.prompt import LANGUAGES, Prompt, PromptTemplate
from pipeline.gemma.tokenizer import Tokenizer
from pipeline.training import recipe as recipes
from pipeline.training import text, vocabulary
from pipeline.training.batches import Batcher
from pipeline.training.export import export, resume
from pipeline.training.recipe import Recipe
from pipeline.training.synthesis import synthesise
from pipeline.training.text import Pair
from pipeline.training.train import Budget, Learner, summary, train


def tokenizer_texts(pairs: list[Pair]) -> list[str]:
    """What the vocabulary is made from: the sentences, and the prompts often enough to be whole words."""
    names = [LANGUAGES[code] for code in recipes.LANGUAGES]
    prompts = [
        f"user\n{recipes.INSTRUCTION.format(source=a, target=b)}\n\nmodel\n\n{b}:" for a in names for b in names
    ]
    return [f" {side}" for pair in pairs for side in (pair.source, pair.target)] + prompts * 1000


def build(recipe: Recipe, pairs: list[Pair], vocabulary_file: Path | None = None) -> tuple[Learner, dict[str, object], object, Prompt]:
    """An untrained model with its configuration, tokenizer and prompt."""
    if vocabulary_file:
        tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary_file))
    else:
        tokenizer = vocabulary.train(tokenizer_texts(pairs), recipe.text_tokens)
    raw = recipes.config(recipe, tokenizer.get_vocab(with_added_tokens=True))
    learner = Learner(ModelConfig.from_dict(raw))
    template = PromptTemplate(recipes.LANGUAGES, recipes.INSTRUCTION)
    inner = type(tokenizer).from_str(tokenizer.to_str())
    return learner, raw, tokenizer, Prompt(Tokenizer(inner), template)


def main() -> None:
    """Synthesise and train; see docs/training.md."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.training", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with split-{train,dev}.es-en.tsv.gz")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--speech", type=Path, required=True, help="folder for synthesised speech, a fast disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=25.0, help="wall-clock budget of the training proper")
    parser.add_argument("--chunks", type=int, default=16_000, help="chunks of speech to synthesise at most")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 3))
    parser.add_argument("--pool-hours", type=float, default=220.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", type=Path, help="checkpoint folder whose weights to start from")
    parser.add_argument("--compile", action="store_true", help="worth it from half an hour of training on")
    parser.add_argument("--tiny", action="store_true", help="the whole recipe, small enough for a CPU")
    options = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    recipe = recipes.TINY if options.tiny else Recipe()
    pairs, _ = text.load(options.text, options.seed)
    maker = multiprocessing.get_context("spawn").Process(
        target=synthesise, args=(pairs, options.speech, options.chunks, options.processes, options.seed)
    )
    maker.start()
    try:
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
            Batcher(pairs, prompt, learner.config.audio_token_id, recipe.buckets, options.seed * 1000 + process)
            for process in range(2 if options.device == "cuda" else 1)
        ]
        steps = train(
            learner,
            recipe,
            batchers,
            options.speech,
            Budget(options.steps, options.minutes * 60),
            torch.device(options.device),
            options.seed,
            int(options.pool_hours * 3600 * 16_000),
            maker.is_alive,
            log=lambda line: print(line, flush=True),
            checkpoint=lambda _: export(learner, raw, tokenizer, options.out),  # type: ignore[arg-type]
        )
        print(f"trained for {steps} steps; checkpoint in {options.out}", flush=True)
    finally:
        maker.terminate()
        maker.join()


if __name__ == "__main__":
    main()
