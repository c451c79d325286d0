"""Which of several languages an utterance is in.

The model is asked to transcribe the beginning of the utterance as speech in each of them, and is surest of
what it says where that is the language spoken: the mean log-probability of the first tokens tells. Nothing
but the soft tokens and the language of the utterance before decides, so it is the same however many soft
tokens come at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.batching import together
from pipeline.config import StreamConfig
from pipeline.gemma.cache import KVPool
from pipeline.gemma.greedy import Segment, greedy
from pipeline.gemma.matformer import Widths
from pipeline.model import Gemma3n
from pipeline.running_text import TOKEN_SECONDS, interval
from pipeline.utterance import Decoded, Rest

TRIAL_TOKENS = 16
"""Most tokens of a transcript that is tried."""

FEWEST_TOKENS = 4
"""A transcript of fewer tokens does not decide at once."""

CLEAR = 0.8
"""By how much a language leads, in mean log-probability, that is decided on at once."""

FAVOUR = 0.1
"""What the language of the utterance before is given, in mean log-probability."""

AGREED_SECONDS = 1.5
"""Of audio after which it is enough that a language leads twice in a row."""

LONGEST_SECONDS = 4.0
"""Of audio that are listened to; behind them the language that leads is decided on."""


@dataclass(frozen=True)
class Trial:
    """An utterance heard as speech in one of the languages.

    Args:
        language: that one.
        odds: mean log-probability of the tokens of the transcript.
        ids: the tokens.
    """

    language: str
    odds: float
    ids: tuple[int, ...]


class Undecided:
    """The beginning of an utterance whose language is not known.

    Args:
        model: that listens.
        pool: where its caches are.
        config: the stream's.
        rest: what an earlier utterance left; for one that begins in silence, nothing but the time.
        before: token ids that stand before the audio, by language.
        before_it: language of the utterance before; empty for none.
        ffn_widths: of the MatFormer sub-model; None for the whole model.

    Attributes:
        language: what was decided on; None so far.
    """

    def __init__(
        self,
        model: Gemma3n,
        pool: KVPool,
        config: StreamConfig,
        rest: Rest,
        *,
        before: Mapping[str, Sequence[int]],
        before_it: str,
        ffn_widths: Widths | None,
    ) -> None:
        self.language: str | None = None
        self.ffn_widths = ffn_widths
        self.config = config
        self._model = model
        self._pool = pool
        self._rest = rest
        self._before = before
        self._before_it = before_it
        self._audio = rest.soft
        self._interval = interval(config)
        self._fresh = len(rest.soft)
        # The language that led the last time.
        self._led = ""

    @property
    def begin(self) -> float:
        """Where the speech in it begins, in seconds of the stream."""
        return self._rest.start + self._rest.margin

    @property
    def end(self) -> float:
        """Up to where it has been heard."""
        return self._rest.start + len(self._audio) * TOKEN_SECONDS

    @property
    def begun_with(self) -> Rest:
        """What an utterance in the language decided on begins with.

        Words that are known to be in it are words of the language of the one before.
        """
        if self.language == self._before_it:
            return self._rest
        return replace(self._rest, certain="", tentative="")

    @property
    def held(self) -> Tensor:
        """The soft tokens heard since."""
        return self._audio[len(self._rest.soft) :]

    @property
    def rest(self) -> Rest | None:
        """What another one needs to go on from here; None once a transcript was tried."""
        return None if self._led else replace(self._rest, soft=self._audio)

    def hear(self, tokens: Tensor) -> Decoded[tuple[int, str | None]]:
        """Take soft tokens, at most as many as the next trial waits for.

        Returns:
            How many were taken; and the text in the language that leads, where there was a trial.
        """
        taken = tokens[: max(1, self._interval - self._fresh)]
        self._audio = torch.cat([self._audio, taken])
        self._fresh += len(taken)
        if self._fresh < self._interval:
            return len(taken), None
        self._fresh = 0
        best, lead = yield from self._try(self._audio)
        seconds = len(self._audio) * TOKEN_SECONDS
        clear = lead >= CLEAR and len(best.ids) >= FEWEST_TOKENS
        agreed = best.language == self._led and best.ids and seconds >= AGREED_SECONDS
        self._led = best.language
        if clear or agreed or seconds >= LONGEST_SECONDS:
            self.language = best.language
        return len(taken), self._model.tokenizer.decode(best.ids).strip()

    def conclude(self, tokens: Tensor) -> Decoded[None]:
        """Decide: the utterance ends with these soft tokens, which are only listened to."""
        best, _ = yield from self._try(torch.cat([self._audio, tokens]))
        self.language = best.language

    def _try(self, audio: Tensor) -> Decoded[tuple[Trial, float]]:
        """The language that leads, and by how much."""
        heard = audio[: round(LONGEST_SECONDS / TOKEN_SECONDS)]
        trials = yield from together([self._hear_as(language, heard) for language in self._before])
        ranked = sorted(trials, key=self._standing, reverse=True)
        return ranked[0], self._standing(ranked[0]) - self._standing(ranked[1])

    def _standing(self, trial: Trial) -> float:
        return trial.odds + FAVOUR * (trial.language == self._before_it)

    def _hear_as(self, language: str, audio: Tensor) -> Decoded[Trial]:
        model, prompt = self._model, self._model.prompt
        before, after = self._before[language], prompt.after_audio()
        cache = model.new_cache(self._pool, trial_positions(len(before), len(after)))
        heard = [model.config.audio_token_id] * len(audio)
        yield Segment(cache, [*before, *heard], 0, audio if heard else None, self.ffn_widths)
        ids = yield from greedy(
            cache.fork(), after, TRIAL_TOKENS, prompt.line_stop_ids, ffn_widths=self.ffn_widths
        )
        odds: list[float] = []
        yield Segment(cache, [*after, *ids], len(ids) + 1, None, self.ffn_widths, odds=odds)
        # Of who says nothing, that he ends.
        told = odds[: len(ids)] or odds
        return Trial(language, sum(told) / len(told), tuple(ids))


def trial_positions(before: int, after: int) -> int:
    """Longest sequence of a trial.

    Args:
        before: tokens before the audio.
        after: tokens between the audio and the transcript.
    """
    return before + round(LONGEST_SECONDS / TOKEN_SECONDS) + after + TRIAL_TOKENS
