"""How far Surtitle's Gemma 3n is from transformers' on the same weights.

    python -m benchmarks.parity [--configs 20] [--seed N]

Random small configurations; transformers writes each checkpoint, Surtitle reads it; both compute in
float32. Prints the largest absolute error of every configuration and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from tests import reference


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Largest errors against transformers' Gemma 3n.")
    parser.add_argument("--configs", type=int, default=20, metavar="N", help="how many configurations")
    parser.add_argument("--seed", type=int, help="of the first configuration; the others follow it")
    arguments = parser.parse_args()
    if arguments.configs < 1:
        parser.error("--configs must be at least 1")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    torch.set_num_threads(1)  # tensors this small only lose time to a thread pool
    logging.disable_progress_bar()
    worst: dict[str, float] = {}
    for number in range(arguments.configs):
        with tempfile.TemporaryDirectory() as folder:
            errors = reference.parity(seed + number, Path(folder))
        print(f"seed {seed + number}", *(f"{kind} {error:.2e}" for kind, error in errors.items()), sep="  ")
        worst = {kind: max(error, worst.get(kind, 0.0)) for kind, error in errors.items()}
    print(json.dumps({"configs": arguments.configs, "seed": seed, "largest_absolute_error": worst}))


if __name__ == "__main__":
    main()
