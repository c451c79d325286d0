"""The translation of a running utterance into one of its targets, decoded behind its transcript.

Of half a sentence a model may say nothing yet, and it may fall into saying nothing when there is something to
translate. When a translation is due it is therefore asked a second time, and may not end before it has begun.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from pipeline.gemma import beam
from pipeline.gemma.bias import Bias
from pipeline.gemma.cache import KVCache
from pipeline.gemma.greedy import Segment, greedy
from pipeline.gemma.matformer import Widths
from pipeline.gemma.prompt import Prompt
from pipeline.gemma.watch import Watch
from pipeline.running_text import RunningText
from pipeline.text.stability import Hypothesis


def is_blank(text: str) -> bool:
    """Whether a text says nothing: it has no letter and no digit."""
    return not any(map(str.isalnum, text))


def translate_into(
    target: str,
    text: RunningText,
    prompt: Prompt,
    branch: KVCache,
    *,
    longest: int,
    heard: int,
    due: bool,
    reach: Sequence[int] | None,
    ffn_widths: Widths | None,
    beams: int,
) -> Generator[Any, Any, Hypothesis]:
    """Yields work for the decoder, and returns what it says.

    Args:
        target: code of the language.
        text: the translation as far as it is known.
        prompt: of the model.
        branch: the sequence, up to the end of the transcript; it stays as it is.
        longest: most tokens of the translation.
        heard: soft tokens of audio that the transcript was made of.
        due: whether the translation of a transcript with words has to have some.
        reach: the soft token that each token of the transcript rests on; None where nobody asks.
        ffn_widths: of the MatFormer sub-model; None for the whole model.
        beams: how many texts go on beside each other.
    """
    room, draft = text.room(longest)
    watch = Watch(branch.length - len(reach), branch.length) if reach and beams == 1 else None
    label = [*prompt.translation_label(target), *text.given]

    def decode(draft: Sequence[int], bias: Bias | None) -> Generator[Segment, list[int], list[int]]:
        own = branch.fork()
        how: dict[str, Any] = {"ffn_widths": ffn_widths, "watch": watch, "bias": bias}
        return (yield from greedy(own, label, room, prompt.line_stop_ids, draft, **how))

    def said(decoded: Sequence[int]) -> Hypothesis:
        reaches: list[int] | None = None
        if watch is not None and reach is not None:
            # What rests on a word of the transcript rests on what that rests on.
            before = branch.length + len(label) - 1
            rests = [reach[watch.seen[before + at]] for at in range(len(decoded))]
            reaches = [*[-1] * len(text.given), *rests]
        return text.hypothesis(decoded, heard, reaches)

    def search() -> Generator[Any, Any, list[int]]:
        own, ranking = branch.fork(), beam.ranking(beams, prompt.line_stop_ids)
        how: dict[str, Any] = {"ffn_widths": ffn_widths, "bias": text.bias}
        yield Segment(own, label, 1, **how, ranking=ranking)
        return (yield from beam.search(own, ranking, room, prompt.line_stop_ids, beams, **how))[0]

    decoded = yield from search() if beams > 1 else decode(draft, text.bias)
    hypothesis = said(decoded)
    if not due or not is_blank(hypothesis.text):
        return hypothesis
    # Nor may it begin with what it said in place of words.
    barred = prompt.line_stop_ids | {*decoded}
    return said((yield from decode((), replace(text.bias or Bias(()), barred=barred))))
