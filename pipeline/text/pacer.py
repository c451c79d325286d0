"""Live text as cues: stable words in as they come, two-line cues out at a pace that can be read.

There is no clock in here: time is what the caller says it is. Cues are placed behind each other on a
timeline, at times that may lie ahead, so a burst of text becomes a row of cues and never floods a screen; the
pacer keeps no more than what does not fill a cue yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from pipeline.text.cues import Cue, CueConfig, Timeline, block_texts
from pipeline.text.lines import arrange, columns, ends_in_blank, pieces
from pipeline.text.phrases import leans


class Pacer:
    """Paces the captions of one stream in one language.

    Pop-on: words wait until they fill a cue, their utterance ends, or the first of them has waited for
    ``config.hold`` seconds and the screen is free. A cue is of one utterance, and complete when returned.

    Roll-up: words are added to the bottom line as soon as the screen is free, and a full line moves up. A
    returned cue is all that the screen then shows; it ends when the next one starts, or at its ``end``, when
    the screen is cleared. An utterance begins on a new line.

    The last word of stable text that may still grow is not shown yet: more letters may follow.

    Args:
        config: what the cues obey.
    """

    def __init__(self, config: CueConfig | None = None) -> None:
        config = config or CueConfig()
        self._width = config.width
        self._screen = _RollUp(config) if config.roll_up else _PopOn(config)
        self._now = -math.inf
        # Characters of the utterance's stable text seen so far, and the last of them: a word that may go on.
        self._seen = 0
        self._rest = ""
        # Pieces that wait to be shown, and since when the first of them does.
        self._waiting: list[str] = []
        self._since = 0.0

    @property
    def due(self) -> float | None:
        """When :meth:`advance` will have something to show; None while nothing waits."""
        return max(self._since + self._screen.hold, self._screen.timeline.free) if self._waiting else None

    def push(self, stable: str, now: float, *, final: bool = False) -> list[Cue]:
        """Take the stable text of the utterance that is being spoken.

        Args:
            stable: all of it; it begins with what was pushed before.
            now: seconds on the caller's clock.
            final: whether it is complete. What is pushed next is another utterance.

        Returns:
            Further cues, in order; they start at ``now`` or later.

        Raises:
            ValueError: the text is shorter than it was, or the time earlier.
        """
        self._pass(now)
        if len(stable) < self._seen:
            raise ValueError(f"stable text only grows; after {self._seen} characters came {stable!r}")
        text = self._rest + stable[self._seen :]
        self._seen = 0 if final else len(stable)
        words, self._rest = pieces(text, self._width), ""
        if ends_in_blank(text):
            self._rest = "" if final else " "
        elif words and not final:
            self._rest = words.pop()
        if not self._waiting:
            self._since = now
        self._waiting += words
        cues = self._show(len(self._waiting), ended=final)
        if final:
            self._screen.end_utterance()
        return cues + self.advance(now)

    def advance(self, now: float) -> list[Cue]:
        """Let time pass; to be called when the pacer is :attr:`due`, or simply every now and then.

        Args:
            now: seconds on the caller's clock.

        Returns:
            Further cues, in order; they start at ``now`` or later.

        Raises:
            ValueError: the time is earlier than it was.
        """
        self._pass(now)
        if self.due is None or now < self.due:
            return []
        return self._show(self._screen.presentable(self._waiting), ended=True)

    def _show(self, count: int, *, ended: bool) -> list[Cue]:
        """Show ``count`` of the waiting pieces: all of them, or those that fill a cue."""
        cues, rest = self._screen.show(self._waiting[:count], self._now, self._since, ended=ended)
        self._waiting = rest + self._waiting[count:]
        if cues:
            self._since = self._now
        return cues

    def _pass(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time went back from {self._now} to {now}")
        self._now = now


def settled(cues: Iterable[Cue]) -> Iterator[Cue]:
    """Cues as they were seen: each ends at the latest when the next one starts.

    What a pacer returns for lines that roll up has to pass through here before it becomes a file; each cue
    comes out when the next one has gone in.
    """
    end = Cue(math.inf, math.inf, "")
    for cue, following in pairwise(chain(cues, [end])):
        yield Cue(cue.start, min(cue.end, following.start), cue.text)


class _PopOn:
    """Cues that replace each other."""

    def __init__(self, config: CueConfig) -> None:
        self.hold = config.hold
        self.timeline = Timeline(config, config.gap)
        self._config = config

    def show(self, words: list[str], now: float, since: float, *, ended: bool) -> tuple[list[Cue], list[str]]:
        """The words as cues, and those which do not fill one; none of these when the text has ``ended``."""
        blocks = arrange(
            words,
            width=self._config.width,
            lines=self._config.lines,
            language=self._config.language,
            ended=ended,
        )
        rest = [] if ended or not blocks else list(chain(*blocks.pop()))
        # Words that took long to come stand as long, or the screen would be empty until the next ones have.
        until = now + (now - since)
        cues = [Cue(*self.timeline.place(text, now, until), text) for text in block_texts(blocks)]
        return cues, rest

    def presentable(self, words: list[str]) -> int:
        """How many of the words may be shown before the others are there."""
        return _without_leaning(words, self._config.language) or len(words)

    def end_utterance(self) -> None:
        """Nothing is left of an utterance on which its words were shown with it."""


class _RollUp:
    """Lines that fill up and move up."""

    def __init__(self, config: CueConfig) -> None:
        self.hold = 0.0
        self.timeline = Timeline(config, 0.0)
        self._config = config
        self._lines: list[str] = []
        # Whether more words may come on the last line; when the screen is cleared if none come at all.
        self._open = False
        self._clear = math.inf

    def show(self, words: list[str], now: float, since: float, *, ended: bool) -> tuple[list[Cue], list[str]]:
        """The words as they appear, and those which do not fill a line; none of these when all are wanted."""
        cues: list[Cue] = []
        while words:
            if max(now, self.timeline.free) >= self._clear:
                self._lines, self._open = [], False
            line = self._lines[-1] if self._open else ""
            count = self._fitting(line, words)
            if count == 0:
                line, count = "", self._fitting("", words)
            if count == len(words) and not ended:
                break
            above = self._lines[:-1] if line else self._lines
            added = "".join(words[:count])
            self._lines = [*above, (line + added).strip(" ")][-self._config.lines :]
            start, _ = self.timeline.place(added.strip(" "), now)
            self._open, self._clear = True, start + self._config.longest
            cues.append(Cue(start, self._clear, "\n".join(self._lines)))
            words = words[count:]
        return cues, words

    def presentable(self, words: list[str]) -> int:
        """All: a line that is not full can go on."""
        return len(words)

    def end_utterance(self) -> None:
        """What comes next begins a new line."""
        self._open = False

    def _fitting(self, line: str, words: list[str]) -> int:
        """How many of the words the line has room for, without such as then belong to the next line."""
        for count in range(len(words)):
            if columns((line + "".join(words[: count + 1])).strip(" ")) > self._config.width:
                kept = _without_leaning(words[:count], self._config.language)
                return kept if kept or line else count
        return len(words)


def _without_leaning(words: list[str], language: str) -> int:
    """How many words there are up to the last one that does not belong to what follows it."""
    count = len(words)
    while count and leans(words[count - 1], language):
        count -= 1
    return count
