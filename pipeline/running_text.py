"""One text of a running utterance: its transcript, or its translation into one language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from pipeline.config import PolicyConfig, StreamConfig
from pipeline.gemma.bias import Bias
from pipeline.gemma.prompt import CONTEXT_TOKENS, Prompt
from pipeline.gemma.tokenizer import Tokenizer
from pipeline.text.policies import new_policy
from pipeline.text.ruts import without_rut
from pipeline.text.stability import Hypothesis, common_prefix, words
from pipeline.wire.events import SpokenWord

TOKEN_SECONDS = 0.16
"""Audio per soft token."""


class RunningText:
    """Token ids to text, and which of it has been shown.

    Args:
        prompt: of the model.
        tokenizer: the same.
        config: when text becomes stable.
        steady: whether of the tentative text only as much is shown as the last two hypotheses have in common,
            for texts of which more would flicker.
    """

    def __init__(
        self, prompt: Prompt, tokenizer: Tokenizer, config: PolicyConfig, *, steady: bool = False
    ) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._policy = new_policy(config)
        # Token ids of the stable text, with which a hypothesis begins.
        self.given: list[int] = []
        # What the text is drawn to, where it begins.
        self.terms: Bias | None = None
        # Token ids of the last hypothesis, the stable text's included.
        self.ids: list[int] = []
        self._steady = steady
        # Words of the last hypothesis.
        self._last: list[str] = []
        # What the client has been sent.
        self._sent = ("", "")

    def begin(self, stable: str, text: str) -> None:
        """Begin with a text that has been shown, and of which the first part stays."""
        self._policy.begin(stable)
        self.given = self._prompt.words(stable)
        self._last = words(text)
        self._sent = (stable, text[len(stable) :])
        if text:
            self.ids = self._prompt.words(text)
            self.judge(Hypothesis(text))

    @property
    def stable(self) -> str:
        """What has been shown and stays."""
        return self._policy.stable

    @property
    def tentative(self) -> str:
        """What has been shown behind it."""
        return self._sent[1]

    @property
    def watches(self) -> bool:
        """Whether hypotheses need a reach."""
        return self._policy.watches

    @property
    def bias(self) -> Bias | None:
        """What is decoded behind the stable text is drawn to; None if it is to nothing."""
        return self.terms and self.terms.behind(self.given)

    def room(self, longest: int) -> tuple[int, list[int]]:
        """How many tokens may be decoded behind the stable text, and how the last hypothesis went on."""
        room = max(0, longest - len(self.given))
        return room, self.ids[len(self.given) :][:room]

    def hypothesis(self, ids: Sequence[int], heard: int, reach: Sequence[int] | None) -> Hypothesis:
        """The text of a hypothesis, without a rut.

        Args:
            ids: tokens that were decoded behind the stable text.
            heard: soft tokens of audio that it was made of.
            reach: the soft token that each token rests on, of the stable text's tokens too; -1 for none. None
                where nobody knows.
        """
        decode, stable = self._tokenizer.decode, self.stable
        self.ids = [*self.given, *ids]
        # Only what is new is taken from the tokenizer: stable text stays as it was shown.
        new = decode(self.ids)[len(decode(self.given)) :]
        text = (stable + new if stable else new.lstrip()).rstrip()
        said = words(text)
        sound = without_rut(said)
        if len(sound) < len(said):
            sound = sound if len(sound) >= len(words(stable)) else words(stable)
            text = "".join(sound)
            self.ids = self._prompt.words(text)
        reaches: list[float] = []
        if reach is not None:
            spans = self.by_word([*self.given, *ids], reach)[: len(sound)]
            reaches = [(last + 1) * TOKEN_SECONDS for _, last in spans]
        return Hypothesis(text, heard * TOKEN_SECONDS, reaches)

    def judge(self, hypothesis: Hypothesis) -> int:
        """How many words of a hypothesis are certain; each is to be judged once."""
        return self._policy.certain(hypothesis)

    def show(self, text: str, certain: int) -> tuple[str, str] | None:
        """Make words stable; returns what is stable and what is tentative, or None if it was sent before."""
        self._policy.extend(text, certain)
        self.given = self._prompt.words(self.stable)
        said = words(text)
        shown = max(common_prefix([self._last, said]), len(words(self.stable)))
        self._last = said
        state = (self.stable, "".join(said[:shown] if self._steady else said)[len(self.stable) :])
        if state == self._sent:
            return None
        self._sent = state
        return state

    def count_tokens(self, number: int) -> int:
        """How many tokens of the last hypothesis its first words have."""
        tokens, spans = self._characters(self.ids)
        if number >= len(spans):
            return len(tokens)
        return sum(last <= spans[number][0] for _, last in tokens)

    def by_word(self, ids: Sequence[int], values: Sequence[int]) -> list[tuple[int, int]]:
        """The least and the greatest value of the tokens of each word of a text.

        Args:
            ids: tokens of the whole text.
            values: of each token.
        """
        tokens, spans = self._characters(ids)
        found = []
        for begin, end in spans:
            inside = [
                value
                for (first, last), value in zip(tokens, values, strict=True)
                if first < end and last > begin
            ]
            # A character of several tokens may be a word of its own.
            inside = inside or [values[-1]]
            found.append((min(inside), max(inside)))
        return found

    def _characters(self, ids: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Which characters of a text its tokens are, and which its words are."""
        text = self._tokenizer.decode(ids)
        lead = len(text) - len(text.lstrip())
        ends = [len(self._tokenizer.decode(ids[: at + 1])) - lead for at in range(len(ids))]
        word_ends = list(accumulate(map(len, words(text.strip()))))
        return list(zip([0, *ends], ends, strict=False)), list(zip([0, *word_ends], word_ends, strict=False))


def timed(text: str, alignment: Sequence[tuple[int, int]], start: float) -> tuple[SpokenWord, ...]:
    """When the words of a text were spoken.

    Args:
        text: of an utterance.
        alignment: the first and the last soft token that each of its words attends to.
        start: where the utterance begins, in seconds of the stream.
    """
    spoken = []
    for word, (first, last) in zip(words(text), alignment, strict=True):
        begin, end = (start + at * TOKEN_SECONDS for at in (first, last + 1))
        spoken.append(SpokenWord(word.strip(), round(begin, 3), round(end, 3)))
    return tuple(spoken)


def spoken_in(config: StreamConfig, language: str) -> StreamConfig:
    """Settings for an utterance in one of the languages; of several it is not translated into it."""
    if language == config.source:
        return config
    others = tuple(target for target in config.targets if target != language)
    return replace(config, source=language, targets=others)


def instruction(prompt: Prompt, config: StreamConfig, said: Sequence[str] = ()) -> list[int]:
    """What stands before the audio; it names a target also where nothing is to be translated.

    Args:
        prompt: of the model.
        config: the stream's.
        said: the sentences that it is told.
    """
    return _instruction(prompt, config, prompt.context(config.context.text, said))


def longest_instruction(prompt: Prompt, config: StreamConfig) -> int:
    """Most positions of what stands before the audio, whichever language is spoken."""
    # Any token stands for one of a context.
    context, more = ([0], CONTEXT_TOKENS - 1) if config.context else ([], 0)
    spoken = [spoken_in(config, source) for source in prompt.sources(config.source)]
    return more + max(len(_instruction(prompt, each, context)) for each in spoken)


def _instruction(prompt: Prompt, config: StreamConfig, context: Sequence[int]) -> list[int]:
    others = (language for language in prompt.languages if language != config.source)
    target = config.targets[0] if config.targets else next(others, config.source)
    return prompt.before_audio(config.source, target, context)


def interval(config: StreamConfig) -> int:
    """Soft tokens from one hypothesis to the next."""
    return max(1, round(config.partial_interval / TOKEN_SECONDS))
