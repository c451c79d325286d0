"""``python -m pipeline.training.average``: the weights between a checkpoint and one that went on from it.

What was learned last is learned at the cost of what was known before. Weights between the two keep most of
both, and are often better than either (Wortsman et al. 2022, arXiv:2109.01903): which share is best has to be
measured.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import SINGLE

_SAME = ("config.json", "tokenizer.json")


def average(first: Path, second: Path, share: float, out: Path) -> None:
    """Write the checkpoint between two.

    Args:
        first: checkpoint folder (:mod:`pipeline.training.export`).
        second: one that was resumed from it; all but the weights is taken from here.
        share: of the second, 0 to 1.
        out: folder to write; made if need be, and neither of the two.

    Raises:
        ValueError: the two are of different shapes or vocabularies, or ``out`` is one of them.
        FileNotFoundError: one is no checkpoint folder.
    """
    for name in _SAME:
        if (first / name).read_bytes() != (second / name).read_bytes():
            raise ValueError(f"{first} and {second} differ in {name}: one has to be resumed from the other")
    if out.resolve() in (first.resolve(), second.resolve()):
        raise ValueError(f"{out} is one of the two checkpoints; name another folder")
    before, after = load_file(first / SINGLE), load_file(second / SINGLE)
    shutil.copytree(second, out, ignore=shutil.ignore_patterns(SINGLE), dirs_exist_ok=True)
    between = {
        name: torch.lerp(before[name].float(), value.float(), share).to(value.dtype)
        for name, value in after.items()
    }
    save_file(between, out / SINGLE, metadata={"format": "pt"})


def main(argv: Sequence[str] | None = None) -> None:
    """Write the checkpoint between two."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.training.average", description=main.__doc__)
    parser.add_argument("first", type=Path, help="checkpoint folder")
    parser.add_argument("second", type=Path, help="one that was resumed from it")
    parser.add_argument("--share", type=float, required=True, help="of the second, from 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    options = parser.parse_args(argv)
    if not 0 <= options.share <= 1:
        parser.error(f"--share is {options.share}, and has to be between 0 and 1")
    try:
        average(options.first, options.second, options.share, options.out)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
