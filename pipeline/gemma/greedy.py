"""Greedy decoding of one sequence, as work for the decoder that can be done beside that of others."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice

from torch import Tensor

from pipeline.gemma.bias import Bias
from pipeline.gemma.cache import KVCache
from pipeline.gemma.watch import Watch


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """What may come next behind a segment.

    Args:
        most: how many ids are asked for.
        likeliest: takes them, the likeliest first, each with the logarithm of how likely it is. Where the
            text is drawn elsewhere, it takes that id alone, with what the likeliest would have had.
    """

    most: int
    likeliest: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Tokens to append to a sequence; the answer is what the model would say behind the last of them.

    Args:
        cache: the sequence so far.
        token_ids: with the audio soft-token id wherever a soft token goes; at least one.
        keep: behind how many of the last tokens the most likely next one is wanted; 0 spares the layers
            that share KV.
        audio: soft tokens, [n, text_hidden].
        ffn_widths: of the MatFormer sub-model to use, as :mod:`pipeline.gemma.matformer` has them; None for
            the whole model.
        watch: notes what the last ``keep`` tokens attend to; None spares the effort.
        bias: where the text stands in the terms that it is drawn to, behind the first of the last ``keep``
            tokens; None draws it nowhere.
        odds: takes how likely each of the ids of the answer is where nothing is drawn, as logarithms; None
            spares the effort.
        ranking: takes what may come behind the last token; None spares the effort.
    """

    cache: KVCache
    token_ids: Sequence[int]
    keep: int
    audio: Tensor | None = None
    ffn_widths: tuple[int, ...] | None = None
    watch: Watch | None = None
    bias: Bias | None = None
    odds: list[float] | None = None
    ranking: Ranking | None = None

    def pieces(self, audio_token_id: int, most: int) -> list[Segment]:
        """The segment in pieces of at most ``most`` tokens; what ``keep`` asks for is all in the last."""
        if len(self.token_ids) - self.keep <= most:
            return [self]
        ids, audio, pieces = self.token_ids, self.audio, []
        while len(ids) - self.keep > most:
            head, ids = ids[:most], ids[most:]
            heard = None
            if audio is not None:
                count = sum(token == audio_token_id for token in head)
                heard, audio = audio[:count], audio[count:]
            pieces.append(Segment(self.cache, head, 0, heard, self.ffn_widths))
        return [*pieces, replace(self, token_ids=ids, audio=audio)]

    @property
    def asks_for_ids(self) -> bool:
        """Whether the most likely ids are all that is asked for."""
        if self.odds is not None or self.ranking is not None:
            return False
        return not self.keep or (self.watch, self.bias) == (None, None)

    def is_step(self, end_of_text: int) -> bool:
        """Whether this is a plain step of decoding; ids from ``end_of_text`` on are no text."""
        return self.asks_for_ids and self.keep == len(self.token_ids) == 1 and self.token_ids[0] < end_of_text

    def biases(self) -> list[Bias | None]:
        """Where the text stands behind each of the last ``keep`` tokens."""
        if self.bias is None or not self.keep:
            return [None] * self.keep
        behind = self.token_ids[len(self.token_ids) - self.keep + 1 :]
        return [*accumulate(behind, lambda bias, token: bias.behind([token]), initial=self.bias)]


def tell_odds(pieces: Sequence[Segment], logits: Tensor) -> None:
    """Tell those that ask how likely the most likely ids behind their last tokens are.

    Args:
        pieces: of one pass.
        logits: behind the last ``keep`` tokens of each, [n, ids].
    """
    if all(piece.odds is None for piece in pieces):
        return
    odds = iter((logits.float().amax(-1) - logits.float().logsumexp(-1)).tolist())
    for piece in pieces:
        own = list(islice(odds, piece.keep))
        if piece.odds is not None:
            piece.odds[:] = own


def tell_rankings(pieces: Sequence[Segment], logits: Tensor, chosen: Sequence[int]) -> None:
    """Tell those that ask what may come behind their last tokens.

    Args:
        pieces: of one pass.
        logits: behind the last ``keep`` tokens of each, [n, ids].
        chosen: the ids of their answers, n.
    """
    ends = accumulate(piece.keep for piece in pieces)
    asking = [(end - 1, piece) for end, piece in zip(ends, pieces, strict=True) if piece.ranking is not None]
    if not asking:
        return
    rows = logits[[row for row, _ in asking]].float().log_softmax(-1)
    most = min(max(piece.ranking.most for _, piece in asking if piece.ranking), rows.shape[-1])
    odds, ids = (values.tolist() for values in rows.topk(most, dim=-1))
    for (row, piece), own_ids, own_odds in zip(asking, ids, odds, strict=True):
        assert piece.ranking is not None
        drawn = piece.bias is not None and chosen[row] != own_ids[0]
        likeliest = [(chosen[row], own_odds[0])] if drawn else zip(own_ids, own_odds, strict=True)
        piece.ranking.likeliest[:] = islice(likeliest, piece.ranking.most)


Decoding = Generator[Segment, list[int], list[int]]
"""Yields segments, receives the ``keep`` most likely ids of each, returns the output."""


def greedy(
    cache: KVCache,
    token_ids: Sequence[int],
    max_new_tokens: int,
    stop_ids: Collection[int],
    draft: Sequence[int] = (),
    *,
    audio: Tensor | None = None,
    ffn_widths: tuple[int, ...] | None = None,
    watch: Watch | None = None,
    bias: Bias | None = None,
) -> Decoding:
    """Append tokens to a sequence and continue it greedily.

    A draft is verified in the pass that takes in ``token_ids`` (Leviathan et al. 2023, arXiv:2211.17192,
    with a greedy target): as much of it as greedy decoding would have given is accepted, so the result is
    the same without it.

    Args:
        cache: the sequence so far; afterwards it holds ``token_ids`` and the output too.
        token_ids: as in :class:`Segment`.
        max_new_tokens: how many to generate at most.
        stop_ids: ids that end the output; they are neither returned nor put into the cache.
        draft: a guess of the output.
        audio: soft tokens, [n, text_hidden].
        ffn_widths: as in :class:`Segment`.
        watch: the same.
        bias: where the text stands behind ``token_ids``, in terms that the output is to be drawn to.

    Returns:
        The output; shorter than ``max_new_tokens`` only if a stop id ended it.

    Raises:
        ValueError: there is no token to continue.
    """
    if not len(token_ids):
        raise ValueError("greedy decoding needs at least one token to continue")
    guess = list(draft[: max(0, max_new_tokens)])
    choices = yield Segment(cache, [*token_ids, *guess], len(guess) + 1, audio, ffn_widths, watch, bias)
    return (
        yield from go_on(
            cache, guess, choices, max_new_tokens, stop_ids, ffn_widths=ffn_widths, watch=watch, bias=bias
        )
    )


def go_on(
    cache: KVCache,
    draft: Sequence[int],
    choices: Sequence[int],
    max_new_tokens: int,
    stop_ids: Collection[int],
    *,
    ffn_widths: tuple[int, ...] | None = None,
    watch: Watch | None = None,
    bias: Bias | None = None,
) -> Decoding:
    """Continue as :func:`greedy` does once its first pass is done.

    Args:
        cache: ends with the draft.
        draft: at most ``max_new_tokens``.
        choices: the most likely next ids before each token of the draft and behind it.
        max_new_tokens: how many to generate at most.
        stop_ids: ids that end the output.
        ffn_widths: as in :class:`Segment`.
        watch: the same.
        bias: where the text stands before the draft, in terms that the output is to be drawn to.

    Returns:
        The output.
    """
    # Where the draft is first wrong, a stop id in it counting as wrong.
    accepted = next(
        (i for i, token in enumerate(draft) if token != choices[i] or token in stop_ids), len(draft)
    )
    cache.truncate(cache.length - len(draft) + accepted)
    output, choice = list(draft[:accepted]), choices[accepted]
    bias = bias and bias.behind(output)
    while len(output) < max_new_tokens and choice not in stop_ids:
        output.append(choice)
        last = len(output) == max_new_tokens
        bias = bias and bias.behind([choice])
        answer = yield Segment(cache, [choice], 0 if last else 1, None, ffn_widths, watch, bias)
        if not last:
            (choice,) = answer
    return output
