"""Greedy decoding of one sequence, as work for the decoder that can be done beside that of others."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.gemma.cache import KVCache
from pipeline.gemma.watch import Watch


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
    """

    cache: KVCache
    token_ids: Sequence[int]
    keep: int
    audio: Tensor | None = None
    ffn_widths: tuple[int, ...] | None = None
    watch: Watch | None = None

    def pieces(self, audio_token_id: int, most: int) -> list[Segment]:
        """The segment in pieces of at most ``most`` tokens; what ``keep`` asks for is all in the last."""
        ids, audio, pieces = self.token_ids, self.audio, []
        while len(ids) - self.keep > most:
            head, ids = ids[:most], ids[most:]
            heard = None
            if audio is not None:
                count = sum(token == audio_token_id for token in head)
                heard, audio = audio[:count], audio[count:]
            pieces.append(Segment(self.cache, head, 0, heard, self.ffn_widths))
        return [*pieces, Segment(self.cache, ids, self.keep, audio, self.ffn_widths, self.watch)]


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

    Returns:
        The output; shorter than ``max_new_tokens`` only if a stop id ended it.

    Raises:
        ValueError: there is no token to continue.
    """
    if not len(token_ids):
        raise ValueError("greedy decoding needs at least one token to continue")
    guess = list(draft[: max(0, max_new_tokens)])
    choices = yield Segment(cache, [*token_ids, *guess], len(guess) + 1, audio, ffn_widths, watch)
    return (
        yield from go_on(cache, guess, choices, max_new_tokens, stop_ids, ffn_widths=ffn_widths, watch=watch)
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

    Returns:
        The output.
    """
    # Where the draft is first wrong, a stop id in it counting as wrong.
    accepted = next(
        (i for i, token in enumerate(draft) if token != choices[i] or token in stop_ids), len(draft)
    )
    cache.truncate(cache.length - len(draft) + accepted)
    output, choice = list(draft[:accepted]), choices[accepted]
    while len(output) < max_new_tokens and choice not in stop_ids:
        output.append(choice)
        last = len(output) == max_new_tokens
        answer = yield Segment(cache, [choice], 0 if last else 1, None, ffn_widths, watch)
        if not last:
            (choice,) = answer
    return output
