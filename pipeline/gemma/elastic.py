"""Which MatFormer sub-model to use: a wide one while there is time, a narrow one under load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.gemma.matformer import Widths


@dataclass(frozen=True)
class WidthLimits:
    """When to change.

    Narrowing needs one sign of trouble and widening lasting quiet, with a gap between the two, so that a load
    between them changes nothing.

    Attributes:
        narrow_load: a load above this is trouble.
        narrow_latency: so is a latency above this, in seconds.
        widen_load: quiet is a load below this,
        widen_latency: and a latency below this.
        patience: how many times in a row it must be quiet.

    Raises:
        ValueError: there is no gap, or patience below 1.
    """

    narrow_load: float = 0.85
    narrow_latency: float = 1.0
    widen_load: float = 0.6
    widen_latency: float = 0.7
    patience: int = 5

    def __post_init__(self) -> None:
        for what in ("load", "latency"):
            low, high = getattr(self, f"widen_{what}"), getattr(self, f"narrow_{what}")
            if not 0 < low < high:
                raise ValueError(f"widen_{what} must be between 0 and narrow_{what}, got {low} and {high}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")


class WidthPolicy:
    """Chooses among sub-models by the numbers that it is told, and by nothing else.

    Args:
        ladder: sub-models from the widest to the narrowest; None is the whole model. It begins with the
            widest.
        limits: when to change.

    Raises:
        ValueError: the ladder is empty.
    """

    def __init__(self, ladder: Sequence[Widths | None], limits: WidthLimits | None = None) -> None:
        if not ladder:
            raise ValueError("a ladder needs at least one sub-model")
        self._ladder = tuple(ladder)
        self._limits = limits or WidthLimits()
        self._rung = 0
        # Times in a row that it has been quiet.
        self._quiet = 0

    def choose_width(self, load: float, latency: float) -> Widths | None:
        """The sub-model to use from now on, at most one step from the last.

        To be asked at even intervals: an answer must have had time to show its effect.

        Args:
            load: share of the time in which the decoder had work to do.
            latency: seconds from the end of speech to the final text, as lately measured.
        """
        limits = self._limits
        if load > limits.narrow_load or latency > limits.narrow_latency:
            self._quiet = 0
            self._rung = min(self._rung + 1, len(self._ladder) - 1)
        elif load < limits.widen_load and latency < limits.widen_latency:
            self._quiet += 1
            if self._quiet >= limits.patience:
                self._quiet = 0
                self._rung = max(self._rung - 1, 0)
        else:
            self._quiet = 0
        return self._ladder[self._rung]
