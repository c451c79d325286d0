"""Text into lines: how wide it is, where it may be broken, and where that is best."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from pipeline.text.phrases import break_cost

# White space and control characters, without the spaces at which no line may be broken.
_BLANK = re.compile(r"(?:(?![\u00a0\u2007\u202f])[\s\x00-\x1f\x7f-\x9f])+")

# Those spaces, and what joins emoji.
_GLUE = "\u00a0\u2007\u202f\u200d"

# Unicode categories of what stays with the character before it (marks, closing brackets, punctuation, signs
# of repetition and length, modifiers of emoji) and of what stays with the one after it. Unicode Annex #14 has
# finer classes; what subtitles need of them is this and the small kana.
_TRAILING = frozenset(("Mn", "Me", "Mc", "Cf", "Pe", "Pf", "Po", "Lm", "Sk"))
_LEADING = frozenset(("Ps", "Pi"))
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")

_BLOCK = 1.0
"""Cost of a block more, on the scale of :func:`~pipeline.text.phrases.break_cost`."""

_BLOCK_WEIGHT = 5.0
"""How much more it matters where a block ends than where a line does: blocks should be single sentences."""

_UNUSED = 0.1
"""Cost of a line that a block before the last could have had: if all else is equal, the first is full."""


def columns(text: str) -> int:
    """How wide a text is, in columns: wide characters take two, marks and invisible ones none.

    Wide are those of Unicode Standard Annex #11 (East Asian Width W and F).
    """
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def pieces(text: str, width: int) -> list[str]:
    """What a text may be broken between, each piece with the space before it.

    These are words, and in scripts that write no spaces (Chinese, Japanese, but not Korean) single characters
    with their punctuation. A word that does not fit on a line is cut where the line ends; so are, for want of
    a dictionary, Thai, Lao, Khmer and Burmese.

    Args:
        text: blanks in it, and control characters, count as one space.
        width: of a line, in columns; at least 2.

    Returns:
        The pieces; joined they are the text without blanks at its end.
    """
    spaced = _BLANK.sub(" ", text)
    words = re.findall(r" ?[^ ]+", spaced)
    return [chunk for word in words for piece in _characters(word) for chunk in _chunks(piece, width)]


def ends_in_blank(text: str) -> bool:
    """Whether what follows the text is a word of its own."""
    return _BLANK.fullmatch(text[-1:]) is not None


def joined(line: Sequence[str]) -> str:
    """The text of a line made of pieces."""
    return "".join(line).strip(" ")


class _Way(NamedTuple):
    """The cheapest way to lay out the pieces so far, the last of them ending the given line of its block."""

    cost: float
    line: int
    begin: int
    before: _Way | None


def arrange(
    text: Sequence[str], *, width: int, lines: int, language: str = "", ended: bool = True
) -> list[list[list[str]]]:
    """Lay out pieces in blocks of lines, as cheaply as possible.

    Every line costs the square of the part that it leaves empty, every break what
    :func:`~pipeline.text.phrases.break_cost` says, and one between blocks some times that and a block more.
    So there are no more lines than needed, they are about equally long, and they end where phrases do: the
    idea is that of Knuth and Plass, *Breaking paragraphs into lines* (1981).

    Args:
        text: from :func:`pieces`, cut to the same width.
        width: of a line, in columns.
        lines: most lines of a block.
        language: ISO 639-1 code of the text.
        ended: whether the text ends here; the last line of one that goes on costs nothing.

    Returns:
        Blocks of lines of pieces.
    """
    edges = list(accumulate(map(columns, text), initial=0))
    breaks = [0.0, *(break_cost(before, after, language) for before, after in pairwise(text))]
    ways = [[_Way(0.0, lines, 0, None)]]
    for end in range(1, len(text) + 1):
        best: dict[int, _Way] = {}
        for begin in range(end - 1, -1, -1):
            used = edges[end] - edges[begin] - text[begin].startswith(" ")
            if used > width:
                break
            empty = (1 - used / width) ** 2 if ended or end < len(text) else 0.0
            for way in ways[begin]:
                for line, cost in (
                    (way.line + 1, breaks[begin]),
                    (1, _BLOCK + _BLOCK_WEIGHT * breaks[begin] + _UNUSED * (lines - way.line)),
                ):
                    total = way.cost + cost + empty
                    if line <= lines and (line not in best or total < best[line].cost):
                        best[line] = _Way(total, line, begin, way)
        ways.append(list(best.values()))
    return _blocks(text, min(ways[-1]))


def _blocks(text: Sequence[str], way: _Way) -> list[list[list[str]]]:
    blocks: list[list[list[str]]] = []
    block: list[list[str]] = []
    end = len(text)
    while way.before is not None:
        block.append(list(text[way.begin : end]))
        if way.line == 1:
            blocks.append(block[::-1])
            block = []
        end, way = way.begin, way.before
    return blocks[::-1]


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _characters(word: str) -> Iterator[str]:
    """Cut a word of a script without spaces into characters, each with the marks that belong to it."""
    if word.isascii():
        yield word
        return
    begin = 0
    for index in range(1, len(word)):
        if _may_part(word[index - 1], word[index]):
            yield word[begin:index]
            begin = index
    yield word[begin:]


def _may_part(before: str, after: str) -> bool:
    if not (_unspaced(before) or _unspaced(after)) or before == " " or before in _GLUE or after in _GLUE:
        return False
    if unicodedata.category(after) in _TRAILING or after in _SMALL_KANA:
        return False
    return unicodedata.category(before) not in _LEADING


def _unspaced(char: str) -> bool:
    hangul = "\u1100" <= char <= "\u11ff" or "\u3130" <= char <= "\u318f" or "\ua960" <= char <= "\ud7ff"
    return _columns_of(char) == 2 and not hangul


def _chunks(piece: str, width: int) -> Iterator[str]:
    """Cut a piece that no line can hold; a mark is never cut off."""
    if columns(piece) <= width:
        yield piece
        return
    begin, used = 0, 0
    for index, char in enumerate(piece):
        # The space before a word is not shown where a line begins.
        size = 0 if char == " " else _columns_of(char)
        if used + size > width:
            yield piece[begin:index]
            begin, used = index, 0
        used += size
    yield piece[begin:]
