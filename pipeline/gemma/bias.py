"""Given spellings: what greedy decoding chooses is drawn towards the tokens of terms.

Shallow fusion with a tree of terms (Zhao et al. 2019, *Shallow-Fusion End-to-End Contextual Biasing*): the
next token of a term that has begun gets a bonus, and so does, a smaller one, the first token of any term.
A token that is further behind the best one than its bonus is not chosen, so that a term that nobody says is
not put into what is said; a term that was begun and left has no effect later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.glossary import Entry, renderings, spellings


@dataclass(frozen=True)
class Pull:
    """How strongly terms draw, in logits.

    Args:
        begin: what the first token of a term gets.
        go_on: what the next token of a term gets that has begun.
        once: whether a term that has been said draws no more.
    """

    begin: float
    go_on: float
    once: bool = False


SPELLED = Pull(2.0, 4.0)
"""How strongly a term draws that may be said."""

RENDERED = Pull(7.0, 10.0, once=True)
"""How strongly a term draws that has been said, in the translation."""


@dataclass(slots=True, eq=False)
class _Node:
    next: dict[int, _Node] = field(default_factory=dict)
    ends: bool = False

    def add(self, ids: Iterable[int]) -> None:
        node = self
        for token in ids:
            node = node.next.setdefault(token, _Node())
        node.ends = True


class Terms:
    """Terms as token ids.

    Args:
        within: how they are spelled in the midst of a text.
        opening: how they are spelled where a text begins, besides.
        pull: how strongly they draw.
    """

    def __init__(self, within: Iterable[Sequence[int]], opening: Iterable[Sequence[int]], pull: Pull) -> None:
        self.pull = pull
        self.root, self.opening = _Node(), _Node()
        for ids in within:
            self.root.add(ids)
        for ids in opening:
            self.opening.add(ids)


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """Where a text stands in the terms that it is drawn to.

    Args:
        terms: that it is drawn to; those that are to be said several times stand there as often.
        begun: those that the end of the text may be the beginning of, and how far they are said.
        empty: whether there is no text yet.
        barred: ids that do not come next, however likely they are; behind that they may.
    """

    terms: tuple[Terms, ...]
    begun: tuple[tuple[Terms, _Node], ...] = ()
    empty: bool = True
    barred: frozenset[int] = frozenset()

    def behind(self, ids: Iterable[int]) -> Bias:
        """The same behind further tokens of the text."""
        state = self
        for token in ids:
            state = state._behind(token)
        return state

    def _behind(self, token: int) -> Bias:
        starts = [(terms, terms.root) for terms in self.terms]
        if self.empty:
            starts += [(terms, terms.opening) for terms in self.terms]
        reached = [(terms, node.next[token]) for terms, node in (*self.begun, *starts) if token in node.next]
        left = list(self.terms)
        for terms in dict.fromkeys(terms for terms, node in reached if node.ends and terms.pull.once):
            left.remove(terms)
        begun = dict.fromkeys((terms, node) for terms, node in reached if node.next and terms in left)
        return Bias(tuple(left), tuple(begun), empty=False)

    def drawn(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What may come next of the terms, ids, and the bonus of each; an id may have several."""
        ids: list[int] = []
        bonuses: list[float] = []
        for terms in self.terms:
            pull = terms.pull
            for node in (terms.root, terms.opening) if self.empty else (terms.root,):
                ids += node.next
                bonuses += [pull.begin] * len(node.next)
        for terms, node in self.begun:
            ids += node.next
            bonuses += [terms.pull.go_on] * len(node.next)
        return np.array(ids, np.int64), np.array(bonuses, np.float64)


def choose(logits: Tensor, biases: Sequence[Bias | None]) -> list[int]:
    """The most likely ids.

    Args:
        logits: [n, ids].
        biases: where the text of each row stands; None for a text that is not drawn anywhere. What they bar
            is not chosen.

    Returns:
        n ids; among equals the first of them in the vocabulary.
    """
    barred = [(row, token) for row, bias in enumerate(biases) if bias for token in bias.barred]
    if barred:
        where = torch.tensor(barred, device=logits.device)
        logits = logits.index_put((where[:, 0], where[:, 1]), logits.new_tensor(-torch.inf))
    chosen: list[int] = logits.argmax(-1).tolist()
    rows = [row for row, bias in enumerate(biases) if bias is not None]
    if not rows:
        return chosen
    drawn = [bias.drawn() for bias in biases if bias is not None]
    # Everything that is compared comes from the device at once.
    counts = [len(ids) for ids, _ in drawn]
    ids = np.concatenate([ids for ids, _ in drawn])
    where = torch.from_numpy(np.repeat(np.array(rows), counts)).to(logits.device)
    values = logits[where, torch.from_numpy(ids).to(logits.device)]
    compared = torch.cat([logits[rows].amax(-1), values]).double().cpu().numpy()
    tops, ends = compared[: len(rows)], len(rows) + np.cumsum(counts)
    for row, top, end, (ids, bonus) in zip(rows, tops, ends, drawn, strict=True):
        lifted = compared[end - len(ids) : end] + bonus
        if len(ids) and lifted.max() > top:
            chosen[row] = int(ids[lifted == lifted.max()].min())
    return chosen


class Biases:
    """What the texts of a stream are drawn to by its glossary.

    Args:
        glossary: of the stream.
        encode: text to token ids.
    """

    def __init__(self, glossary: Sequence[Entry], encode: Callable[[str], Sequence[int]]) -> None:
        self.glossary = glossary
        self._encode = encode
        self._made: dict[tuple[tuple[str, ...], Pull], Terms] = {}

    def transcript(self, source: str) -> Bias | None:
        """What a transcript in a language is drawn to, from its beginning on; None if it is to nothing."""
        return self._bias(spellings(self.glossary, source), [])

    def translation(self, source: str, target: str, said: str) -> Bias | None:
        """The same of the translation of what was said."""
        names = [entry for entry in self.glossary if isinstance(entry, str)]
        return self._bias(names, renderings(self.glossary, source, target, said))

    def _bias(self, spelled: Sequence[str], rendered: Sequence[str]) -> Bias | None:
        terms = [self._terms(tuple(spelled), SPELLED)] if spelled else []
        terms += [self._terms((term,), RENDERED) for term in rendered]
        return Bias(tuple(terms)) if terms else None

    def _terms(self, some: tuple[str, ...], pull: Pull) -> Terms:
        if (some, pull) not in self._made:
            forms = [form for term in some for form in (term, term[0].upper() + term[1:])]
            within = [self._encode(f" {form}") for form in forms]
            self._made[some, pull] = Terms(within, [self._encode(form) for form in forms], pull)
        return self._made[some, pull]
