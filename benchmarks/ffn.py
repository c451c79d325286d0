"""Where the sparse feed-forward is faster than the dense one: the kernel beside torch, in the same run.

    python -m benchmarks.ffn [--hidden-width 256:1024 2048:16384 ...] [--repeat 30]

Layers with random weights in float32 at some hidden sizes and widths, at sparsity 0.5 and 0.95, for 1 to 32
positions, as a decode step has them; torch runs one thread and two, the kernel one. Both take turns, and
times are medians. *rule* says which of them :class:`pipeline.gemma.layers.MLP` uses.

Prints a table and ends with one JSON line: ``lines``, and ``wrong``, how many of them the rule decides
against the measurement by more than a tenth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from pipeline.config import TextConfig
from pipeline.gemma.layers import MLP

SIZES = ("256:512", "192:768", "256:1024", "2048:8192", "2048:16384")
SPARSITIES = (0.5, 0.95)
POSITIONS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Line:
    """One line of the table; times are seconds."""

    hidden: int
    width: int
    sparsity: float
    positions: int
    threads: int
    sparse: float
    dense: float
    rule: str

    @property
    def is_wrong(self) -> bool:
        """Whether the rule picks what takes a tenth longer, or more."""
        picked, other = (self.sparse, self.dense) if self.rule == "sparse" else (self.dense, self.sparse)
        return picked > 1.1 * other


def layer(hidden: int, width: int, sparsity: float) -> MLP:
    """A feed-forward with random weights."""
    config = dataclasses.replace(
        TextConfig.from_dict(
            {"num_hidden_layers": 1, "num_kv_shared_layers": 0, "layer_types": ["full_attention"]}
        ),
        hidden_size=hidden,
        intermediate_size=(width,),
        activation_sparsity_pattern=(sparsity,),
    )
    return MLP(config, 0).requires_grad_(False)


def compare(hidden: int, width: int, sparsity: float, repeat: int) -> list[Line]:
    """Lines of one layer."""
    dense, sparse = layer(hidden, width, sparsity), layer(hidden, width, sparsity)
    sparse.load_state_dict(dense.state_dict())
    sparse.lay_out()
    rule, lines = sparse.most_gathered, []
    sparse.most_gathered = max(POSITIONS)
    most = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for positions in POSITIONS:
            x = torch.randn(1, positions, hidden)
            times: dict[MLP, list[float]] = {sparse: [], dense: []}
            for turn in range(repeat + 1):
                for mlp, taken in times.items():
                    started = time.perf_counter()
                    mlp(x)
                    if turn:  # in the first one the kernel is compiled
                        taken.append(time.perf_counter() - started)
            ours, theirs = (statistics.median(taken) for taken in times.values())
            picked = "sparse" if positions <= rule else "dense"
            lines.append(Line(hidden, width, sparsity, positions, threads, ours, theirs, picked))
    torch.set_num_threads(most)
    return lines


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hidden-width", nargs="+", default=SIZES, metavar="HIDDEN:WIDTH")
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args(argv)
    try:
        sizes = [tuple(map(int, size.split(":"))) for size in options.hidden_width]
        if any(len(size) != 2 or min(size) < 1 for size in sizes) or options.repeat < 1:
            raise ValueError
    except ValueError:
        parser.error("--hidden-width must be pairs like 256:1024, --repeat at least 1")

    print("hidden  width  sparsity  positions  threads      sparse       dense  ratio  rule")
    lines = []
    for hidden, width in sizes:
        for sparsity in SPARSITIES:
            for line in compare(hidden, width, sparsity, options.repeat):
                lines.append(line)
                print(
                    f"{line.hidden:>6}{line.width:>7}{line.sparsity:>10}{line.positions:>11}{line.threads:>9}"
                    f"{line.sparse * 1e6:>9.0f} us{line.dense * 1e6:>9.0f} us"
                    f"{line.dense / line.sparse:>6.2f}x  {line.rule}",
                    flush=True,
                )
    print(
        json.dumps({"wrong": sum(line.is_wrong for line in lines), "lines": [asdict(line) for line in lines]})
    )


if __name__ == "__main__":
    main()
