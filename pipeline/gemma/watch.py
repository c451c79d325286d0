"""What a sequence attends to: which of a span of its positions each of its later ones looks at most.

For speech that is where in the audio a word is heard, for a translation which word of the transcript it
renders (Papi et al. 2023, *AlignAtt*, arXiv:2305.11408). Layers with full attention are asked, for a sliding
window may not reach that far, and all of their heads: in those that align text with audio nearly all of the
attention is in the span, in others little, so the former decide the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.gemma.ahead import Ahead


@dataclass(slots=True, eq=False)
class Watch:
    """What is to be noted of one sequence.

    Attributes:
        first: position where the span begins.
        end: position behind it.
        seen: for each position that was computed, and whose next token was wanted, which place in the span it
            attends to most, 0 for the first; a position that is computed again is noted anew.
    """

    first: int
    end: int
    seen: dict[int, int] = field(default_factory=dict)


class Lookout:
    """Collects the attention of one pass over many sequences.

    Args:
        ahead: the pass; some of its positions are wanted.
    """

    def __init__(self, ahead: Ahead) -> None:
        assert ahead.wanted is not None
        self._wanted = ahead.wanted
        # [K, S] of the K positions that are wanted, the sum of what heads attend to.
        self._sum: Tensor | None = None

    def __call__(self, layer: int, weights: Tensor) -> None:
        """Take a layer's attention, [N or K, heads, S]."""
        wanted = self._wanted.of
        if wanted is not None and len(weights) != len(wanted):
            weights = weights[wanted]
        heads = weights.mean(1)
        if self._sum is None:
            self._sum = heads
            return
        # What the wanted sequences read may be fewer blocks than what all do.
        width = min(heads.shape[1], self._sum.shape[1])
        self._sum = self._sum[:, :width] + heads[:, :width]

    def tell(self, watches: Sequence[tuple[Watch | None, int]]) -> None:
        """Note it.

        Args:
            watches: of each sequence in the pass, None for those that are not watched; and how many of its
                positions are wanted.
        """
        if self._sum is None:
            return
        positions: list[int] = self._wanted.positions.tolist()
        at = 0
        for watch, keep in watches:
            if watch is not None and keep and watch.end > watch.first:
                span = self._sum[at : at + keep, watch.first : watch.end]
                places: list[int] = torch.argmax(span, dim=-1).tolist()
                watch.seen.update(zip(positions[at : at + keep], places, strict=True))
            at += keep
