"""Cues, what they have to obey, and how finished text becomes cues.

The rules are those that broadcasters have in common: BBC, *Subtitle Guidelines*, sections 3 and 4; Netflix,
*Timed Text Style Guide: General Requirements*, sections 1, 3 and 5; Ofcom, *Guidelines on the provision of
television access services* (two lines, reading speed, delay of live subtitles).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.text.lines import arrange, columns, joined, pieces


@dataclass(frozen=True)
class Cue:
    """A text that stands on the screen from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines of the text without empty ones, which subtitle formats cannot have."""
        return [line for line in self.text.splitlines() if line.strip(" \t")]


@dataclass(frozen=True, kw_only=True)
class CueConfig:
    """What cues obey.

    Args:
        language: ISO 639-1 code of the text: its function words tell where lines may break. Without one
            punctuation and capitals do.
        roll_up: whether lines of live text move up as they fill, instead of whole cues replacing each other;
            finished text never does.
        lines: most lines of a cue.
        width: longest line, in columns: most characters take one, Chinese and Japanese ones two.
        speed: fastest that one is made to read, in columns per second, unless text has to catch up.
        shortest: seconds that a cue stands at least.
        longest: seconds that a cue stands at most.
        gap: seconds of empty screen between two cues, by which a reader sees that the text is a new one; none
            between rolling lines.
        hold: seconds that live text waits at most for what follows it before it is shown as a cue.
        tolerance: seconds that a cue may be late before the text catches up.
        catch_up: columns per second by which reading is faster for each second beyond the tolerance.

    Raises:
        ValueError: a value is out of range, or a full cue cannot be read in the longest time.
    """

    language: str = ""
    roll_up: bool = False
    lines: int = 2
    width: int = 42
    speed: float = 17.0
    shortest: float = 1.0
    longest: float = 7.0
    gap: float = 0.08
    hold: float = 2.0
    tolerance: float = 2.0
    catch_up: float = 1.0

    def __post_init__(self) -> None:
        if self.lines < 1 or self.width < 2:
            raise ValueError(f"a cue needs a line of 2 columns, got {self.lines} lines of {self.width}")
        if not 0 < self.shortest <= self.longest < math.inf:
            raise ValueError(
                f"0 < shortest <= longest must hold, got shortest={self.shortest}, longest={self.longest}"
            )
        for name in ("gap", "hold", "tolerance", "catch_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.lines * self.width <= self.speed * self.longest < math.inf:
            raise ValueError(
                f"{self.lines} lines of {self.width} columns cannot be read in {self.longest} s "
                f"at {self.speed} columns per second: allow more time or less text"
            )

    def speed_at(self, late: float) -> float:
        """Columns per second that are read of a cue that comes ``late`` seconds late: the catch-up rule.

        Reading becomes faster with the delay, so that the delay of steady speech stays where the two are
        equally fast. With the defaults, text is read at 20 columns per second when it is 5 seconds late.
        """
        return self.speed + self.catch_up * max(0.0, late - self.tolerance)


class Timeline:
    """Gives cues their time on the screen, one behind the other.

    Args:
        config: what they obey.
        gap: seconds between two of them.
    """

    def __init__(self, config: CueConfig, gap: float) -> None:
        self._config = config
        self._gap = gap
        # When the screen is free for the next cue.
        self.free = -math.inf

    def place(self, text: str, ready: float, until: float = -math.inf) -> tuple[float, float]:
        """Place a cue behind all before it.

        Args:
            text: what has to be read in the time.
            ready: seconds at which it could be shown were the screen free; what it is shown later it is late.
            until: second until which it should stand, as far as it may.

        Returns:
            Where it begins, and until when it has to stand.
        """
        config = self._config
        start = max(ready, self.free)
        reading = sum(map(columns, text.splitlines())) / config.speed_at(start - ready)
        end = start + min(max(reading, config.shortest, until - start), config.longest)
        self.free = end + self._gap
        return start, end


def pop_on(said: Iterable[Cue], config: CueConfig | None = None) -> Iterator[Cue]:
    """Finished text as cues that replace each other.

    What does not fit into one cue goes into further ones, each of which begins where its share of the text
    does in the time that all of it took to say. A cue that needs more time than that moves the next one.

    Args:
        said: texts of any length with the time when they were said, in order.
        config: what the cues obey.

    Yields:
        Cues in order. They do not overlap, and every word of the texts is in one of them.
    """
    config = config or CueConfig()
    timeline = Timeline(config, config.gap)
    for cue in said:
        texts = block_texts(
            arrange(
                pieces(cue.text, config.width),
                width=config.width,
                lines=config.lines,
                language=config.language,
            )
        )
        for text, (begin, end) in zip(texts, _shares(cue, texts), strict=True):
            yield Cue(*timeline.place(text, begin, end - config.gap), text)


def block_texts(blocks: Iterable[list[list[str]]]) -> list[str]:
    """The texts of blocks from :func:`~pipeline.text.lines.arrange`, with line breaks."""
    return ["\n".join(map(joined, block)) for block in blocks]


def _shares(cue: Cue, texts: list[str]) -> Iterator[tuple[float, float]]:
    """The time of a cue, shared out to parts of its text by their width."""
    widths = [max(1, columns(text)) for text in texts]
    ends = accumulate(widths, initial=0)
    seconds = (cue.end - cue.start) / max(1, sum(widths))
    return pairwise(cue.start + seconds * end for end in ends)
