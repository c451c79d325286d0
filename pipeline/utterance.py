"""One utterance of the back half: its soft tokens, what they may say, and where it can be parted.

Soft tokens extend the KV cache behind the instruction as they arrive. A hypothesis is decoded in a fork of
that cache (end of the audio, transcript, and in forks of it the translations), so that every hypothesis costs
its own tokens only, and of these only the ones that differ from the last hypothesis. What a policy made
stable is not decoded again but given: a later hypothesis cannot contradict it.

Who speaks without a pause fills the window. Then the beginning that is certain becomes final, with the end of
a sentence while there is time to wait for one, and a :class:`Rest` is left: the soft tokens behind the place,
and the words that are known to be in them. The utterance that takes it over is given those words that are
certain, so none is lost at the seam and none said twice. Where in the audio the seam is, attention tells.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from pipeline.batching import together
from pipeline.config import StreamConfig
from pipeline.gemma import beam
from pipeline.gemma.bias import Biases
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.greedy import Segment, go_on
from pipeline.gemma.matformer import Widths
from pipeline.gemma.watch import Watch
from pipeline.model import Gemma3n
from pipeline.running_text import TOKEN_SECONDS, RunningText, interval, timed
from pipeline.target import is_blank, translate_into
from pipeline.text.sentences import Urgency, ends_sentence, place_to_part, sentence_end
from pipeline.text.stability import Hypothesis, words
from pipeline.wire.events import Error, Event, SpokenWord, Transcript, Translation

Result = TypeVar("Result")

Decoded: TypeAlias = Generator[Any, Any, Result]
"""Yields work for the decoder, a :class:`~pipeline.gemma.greedy.Segment` or a tuple of them, receives what it
says, and returns a result."""

TRANSCRIPT_TOKENS = 3
"""Most tokens of a transcript per soft token of its audio, twice what fast speech has: a loop ends there."""

TRANSLATION_TOKENS = 3
"""Most tokens of a translation per token of its transcript."""

SPARE_TOKENS = 16
"""Allowed besides, so that these rules do not cut very short texts."""

SENTENCE_SHARE, CLAUSE_SHARE, ANYWHERE_SHARE = 0.4, 0.7, 0.85
"""Parts of the window behind which it is parted at the end of a sentence, of a clause, or of any word that is
certain. When it is full it is parted whatever is certain."""

STALL_SECONDS = 8.0
"""Of speech that bring no other text: the decoder is in a rut, and begins anew behind what it said."""

KEPT_SECONDS = 2.0
"""Of audio that is kept when it is let go without a word of it."""

SEAM_TOKENS = 2
"""How far from where attention puts the seam better places for it are looked for, in soft tokens."""


@dataclass(frozen=True, eq=False)
class Rest:
    """What is left of an utterance when its beginning has become final.

    Args:
        start: where it begins, in seconds of the stream.
        soft: its soft tokens, float32 [n, text_hidden], on the CPU.
        certain: text that is known to be said in them.
        tentative: how that may go on.
        margin: seconds of it before the speech in it.
    """

    start: float
    soft: Tensor
    certain: str = ""
    tentative: str = ""
    margin: float = 0.0


Finals: TypeAlias = tuple[str, Mapping[str, str], tuple[SpokenWord, ...] | None]
"""The final transcript, its translations by target, and the words with their times."""


@dataclass(frozen=True)
class Said:
    """A hypothesis: of the transcript, and of the translations of it."""

    transcript: Hypothesis
    translations: Mapping[str, Hypothesis]


class Utterance:
    """An utterance that has not ended.

    Args:
        model: whose decoder to use.
        pool: where its cache is.
        config: the stream's, as it is when the utterance begins.
        number: of the utterance.
        rest: what an earlier one left; for one that begins in silence, nothing but the time.
        before: token ids that stand before its audio.
        biases: what its texts are drawn to.
        positions: longest sequence in the cache.
        ffn_widths: of the MatFormer sub-model; None for the whole model.
    """

    def __init__(
        self,
        model: Gemma3n,
        pool: KVPool,
        config: StreamConfig,
        number: int,
        rest: Rest,
        *,
        before: Sequence[int],
        biases: Biases,
        positions: int,
        ffn_widths: Widths | None,
    ) -> None:
        self.number = number
        self.ffn_widths = ffn_widths
        self._model = model
        self._pool = pool
        self._config = config
        self._start, self._margin = rest.start, rest.margin
        self._positions = positions
        self._interval = interval(config)
        self._transcript = RunningText(model.prompt, model.tokenizer, config.policy)
        self._transcript.begin(rest.certain, rest.certain + rest.tentative)
        self._biases = biases
        self._transcript.terms = biases.transcript(config.source)
        self._translations = {
            target: RunningText(model.prompt, model.tokenizer, config.policy, steady=True)
            for target in config.targets
        }
        # Holds the instruction and the audio heard, but for soft tokens that are fewer than an interval has:
        # these go in with what comes behind them.
        self._cache = model.new_cache(pool, positions)
        self._before = self._instruction = before
        self._audio = rest.soft
        # How many soft tokens the cache does not hold, and how many came since the last hypothesis.
        self._pending = self._fresh = len(rest.soft)
        # The last transcript, and how much had been heard when it came up.
        self._last = ""
        self._changed = 0
        self._guessed = False
        # A transcript that was shown before its audio is heard again: that it does not change means nothing.
        self._kept = ""
        # The final texts, if the pause that the speaker makes is the end.
        self._foreseen: Finals | None = None

    @property
    def begin(self) -> float:
        """Where the speech in it begins, in seconds of the stream."""
        return self._start + self._margin

    def keep(self, shown: Mapping[str, str]) -> None:
        """Begin with stable text that was shown: of translations by target, of the transcript as ``""``."""
        texts = {"": self._transcript, **self._translations}
        for target, stable in shown.items():
            texts[target].begin(stable, stable)
        self._kept = shown.get("", "")

    @property
    def rest(self) -> Rest | None:
        """What another one needs to go on from here; None once there was a hypothesis."""
        if self._guessed:
            return None
        text = self._transcript
        return Rest(self._start, self._audio, text.stable, text.tentative, self._margin)

    def opening(self, audio_time: float) -> list[Event]:
        """What is known of an utterance that begins with words."""
        text = self._transcript
        if not (self._config.partials and (text.stable or text.tentative)):
            return []
        about = self._about(self._start + self._heard * TOKEN_SECONDS, audio_time)
        return [Transcript(**about, stable=text.stable, tentative=text.tentative, final=False)]

    def hear(
        self, tokens: Tensor, time: float, audio_time: float
    ) -> Decoded[tuple[int, list[Event], Rest | None]]:
        """Take soft tokens, at most as many as the next hypothesis waits for.

        Returns:
            How many were taken; what came of them; and, if the utterance has ended with them, what is left.
        """
        self._foreseen = None
        taken = tokens[: max(1, self._interval - self._fresh)]
        self._audio = torch.cat([self._audio, taken])
        self._pending += len(taken)
        self._fresh += len(taken)
        if self._fresh < self._interval:
            return len(taken), [], None
        self._fresh = 0
        filled = self._heard * TOKEN_SECONDS / self._config.window
        if not self._config.partials and filled < SENTENCE_SHARE:
            ids, audio = self._take_pending()
            yield Segment(self._cache, ids, 0, audio, self.ffn_widths)
            return len(taken), [], None
        end = min(time, self._start + self._heard * TOKEN_SECONDS)
        events, rest = yield from self._guess(end, audio_time, filled)
        return len(taken), events, rest

    def foresee(self, tokens: Tensor) -> Decoded[None]:
        """Decode the final texts as if the utterance ended with these soft tokens.

        :meth:`finish` tells them unless more is heard before, and then it is as if this had not been done.
        """
        texts = [self._transcript, *self._translations.values()]
        before = self._cache, self._audio, self._pending, self._instruction
        drafts = [text.ids for text in texts]
        self._cache = self._cache.fork()
        self._audio = torch.cat([self._audio, tokens])
        self._pending += len(tokens)
        self._foreseen = yield from self._all()
        self._cache, self._audio, self._pending, self._instruction = before
        for text, ids in zip(texts, drafts, strict=True):
            text.ids = ids

    def finish(self, time: float, audio_time: float) -> Decoded[list[Event]]:
        """The final texts of an utterance whose speech ends at ``time``."""
        finals = self._foreseen or (yield from self._all())
        return self._finals(time, audio_time, *finals)

    def _all(self) -> Decoded[Finals]:
        said = yield from self._hypothesis(final=True)
        text, spoken = said.transcript.text, None
        if self._config.word_times:
            spoken = timed(text, (yield from self._align(len(words(text)))), self._start)
        return text, {target: hypothesis.text for target, hypothesis in said.translations.items()}, spoken

    @property
    def _heard(self) -> int:
        return len(self._audio)

    def _guess(
        self, end: float, audio_time: float, filled: float
    ) -> Decoded[tuple[list[Event], Rest | None]]:
        said = yield from self._hypothesis(final=False)
        self._guessed = True
        if said.transcript.text != self._last or said.transcript.text == self._kept != "":
            self._last, self._changed = said.transcript.text, self._heard
        certain = self._transcript.judge(said.transcript)
        place = self._place(words(said.transcript.text), certain, filled)
        if place is not None:
            least = self._heard // 4 if filled >= 1.0 else 1
            return (
                yield from self._part(said.transcript.text, place, max(certain, place), least, audio_time)
            )
        if not self._config.partials:
            return [], None
        about = self._about(end, audio_time) | {"final": False}
        events: list[Event] = []
        if state := self._transcript.show(said.transcript.text, certain):
            events.append(Transcript(**about, stable=state[0], tentative=state[1]))
        # A translation stays within the sentence that its transcript is in: further ones may come to be
        # another utterance's.
        sentences = sum(map(ends_sentence, words(self._transcript.stable)[:-1]))
        for target, hypothesis in said.translations.items():
            text = self._translations[target]
            certain = text.judge(hypothesis)
            most = sentence_end(words(hypothesis.text), sentences + 1)
            certain = certain if most is None else min(certain, most)
            if state := text.show(hypothesis.text, certain):
                events.append(Translation(**about, target=target, stable=state[0], tentative=state[1]))
        return events, None

    def _place(self, said: Sequence[str], certain: int, filled: float) -> int | None:
        """Behind how many words of the transcript to part the utterance; None to leave it whole."""
        if (self._heard - self._changed) * TOKEN_SECONDS >= STALL_SECONDS:
            return len(said)
        if filled < SENTENCE_SHARE:
            return None
        shown = len(words(self._transcript.stable))
        urgency = Urgency((filled >= CLAUSE_SHARE) + (filled >= ANYWHERE_SHARE))
        place = place_to_part(said, shown, certain, urgency)
        if place is None and filled >= 1.0:
            return max(shown, len(said) // 2)
        return place

    def _part(
        self, transcript: str, place: int, certain: int, least: int, audio_time: float
    ) -> Decoded[tuple[list[Event], Rest]]:
        """Make the first words final and leave the rest, from soft token ``least`` on or from a later one."""
        every = words(transcript)
        text, tail = "".join(every[:place]), "".join(every[place:]).lstrip()
        alignment = yield from self._align(len(every))
        split = self._transcript.count_tokens(place)
        first, behind = self._transcript.ids[:split], self._transcript.ids[split:]
        translations = {target: running.stable for target, running in self._translations.items()}
        if text:
            branch = self._cache.fork()
            ids = [*self._model.prompt.after_audio(), *first]
            yield Segment(branch, ids, 0, None, self.ffn_widths)
            hypotheses = yield from self._translate(branch, text, len(ids), None, final=True)
            translations |= {target: hypothesis.text for target, hypothesis in hypotheses.items()}
            del branch
        # The audio goes into other caches from here on.
        self._cache = self._model.new_cache(self._pool, self._positions)
        seam = yield from self._seam(alignment, place, behind, least)
        time = self._start + seam * TOKEN_SECONDS
        spoken = timed(text, alignment[:place], self._start) if self._config.word_times else None
        events = self._finals(time, audio_time, text, translations, spoken)
        known = "".join(every[place:certain]).lstrip()
        return events, Rest(time, self._audio[seam:].clone(), known, tail[len(known) :])

    def _seam(
        self, alignment: Sequence[tuple[int, int]], place: int, tail: Sequence[int], least: int
    ) -> Decoded[int]:
        """The first soft token of the rest: from where on the tokens behind the place are heard best."""
        if not tail:
            kept = self._heard - round(KEPT_SECONDS / TOKEN_SECONDS)
            return max(0, kept, max((last for _, last in alignment), default=-1) + 1)
        left = alignment[place - 1][1] if place else -1
        middle = (left + 1 + max(alignment[place][0], left + 1)) // 2
        nearest = sorted(range(-SEAM_TOKENS, SEAM_TOKENS + 1), key=abs)
        places = [middle + way for way in nearest if least <= middle + way < self._heard]
        best, most = max(least, min(middle, self._heard - 1)), -1
        for seam in places:
            found = yield from self._likeness(seam, tail)
            if found > most:
                best, most = seam, found
        return best

    def _likeness(self, seam: int, ids: Sequence[int]) -> Decoded[int]:
        """How well a text is heard from a soft token on: its tokens that are, the first counts twice."""
        audio = self._audio[seam:]
        cache = self._model.new_cache(self._pool, self._positions)
        heard = [self._model.config.audio_token_id] * len(audio)
        prompt = [*self._before, *heard, *self._model.prompt.after_audio()]
        bias = self._transcript.terms
        choices = yield Segment(cache, [*prompt, *ids[:-1]], len(ids), audio, self.ffn_widths, bias=bias)
        decode = self._model.tokenizer.decode
        found = [decode([a]).casefold() == decode([b]).casefold() for a, b in zip(choices, ids, strict=True)]
        return sum(found) + found[0]

    def _align(self, number: int) -> Decoded[list[tuple[int, int]]]:
        """The first and the last soft token that each of the transcript's ``number`` words attends to."""
        if not number or not self._heard:
            return [(0, 0)] * number
        end_of_audio = self._cache.length
        watch = Watch(end_of_audio - self._heard, end_of_audio)
        after, ids = self._model.prompt.after_audio(), self._transcript.ids
        yield Segment(self._cache.fork(), [*after, *ids], len(ids) + 1, None, self.ffn_widths, watch)
        first = end_of_audio + len(after) - 1
        spans = self._transcript.by_word(ids, [watch.seen[first + at] for at in range(len(ids))])
        # Where the tokenizer sees other words than have been shown, which is rare, the last stands for more.
        return [*spans, *spans[-1:] * number][:number]

    def _finals(
        self,
        time: float,
        audio_time: float,
        transcript: str,
        translations: Mapping[str, str],
        spoken: tuple[SpokenWord, ...] | None,
    ) -> list[Event]:
        about = self._about(time, audio_time) | {"tentative": "", "final": True}
        blank = [] if is_blank(transcript) else [t for t, text in translations.items() if is_blank(text)]
        return [
            Transcript(**about, stable=transcript, words=spoken),
            *(Translation(**about, target=target, stable=text) for target, text in translations.items()),
            *(self._untranslated(target, audio_time) for target in blank),
        ]

    def _untranslated(self, target: str, audio_time: float) -> Error:
        sentence = f"utterance {self.number} has words, and no translation into {target} came of them"
        return Error(code="untranslated", message=sentence, fatal=False, audio_time=audio_time)

    def _about(self, end: float, audio_time: float) -> dict[str, Any]:
        start = self.begin
        return {"utterance": self.number, "start": start, "end": max(start, end), "audio_time": audio_time}

    def _take_pending(self) -> tuple[list[int], Tensor | None]:
        """Ids and soft tokens that the cache does not hold yet."""
        audio = self._audio[self._heard - self._pending :]
        self._pending = 0
        ids = [*self._instruction, *[self._model.config.audio_token_id] * len(audio)]
        self._instruction = []
        return ids, audio if len(audio) else None

    def _hypothesis(self, *, final: bool) -> Decoded[Said]:
        """Transcript and translations of the audio heard so far, which may be all that there is."""
        prompt, text = self._model.prompt, self._transcript
        pending, audio = self._take_pending()
        end_of_audio = self._cache.length + len(pending)
        longest = min(self._config.max_new_tokens, SPARE_TOKENS + TRANSCRIPT_TOKENS * self._heard)
        room, draft = text.room(longest)
        watch = Watch(end_of_audio - self._heard, end_of_audio) if text.watches and self._heard else None
        ranking = None
        if final and self._config.beams > 1:
            # A guess helps no search, and final text need not rest on anything.
            draft, watch, ranking = [], None, beam.ranking(self._config.beams, prompt.line_stop_ids)
        # What is pending, what comes behind it and the draft go in together; the fork takes all of it, and
        # what holds the audio is cut back to that.
        ids = [*pending, *prompt.after_audio(), *text.given, *draft]
        how: dict[str, Any] = {"ffn_widths": self.ffn_widths, "bias": text.bias}
        choices = yield Segment(self._cache, ids, len(draft) + 1, audio, **how, watch=watch, ranking=ranking)
        branch = self._cache.fork()
        self._cache.truncate(end_of_audio)
        stops = prompt.line_stop_ids
        if ranking is None:
            decoded = yield from go_on(branch, draft, choices, room, stops, **how, watch=watch)
        else:
            found = beam.search(branch, ranking, room, stops, self._config.beams, **how)
            decoded, branch = yield from found
        before = branch.length - len(decoded) - 1
        reach: list[int] | None = None
        if watch is not None:
            # Stable text rests on nothing that could change any more.
            reach = [*[-1] * len(text.given), *(watch.seen[before + at] for at in range(len(decoded)))]
        transcript = text.hypothesis(decoded, self._heard, reach)
        translations = {target: Hypothesis(running.stable) for target, running in self._translations.items()}
        if transcript.text:
            said = branch.length - end_of_audio
            translations |= yield from self._translate(branch, transcript.text, said, reach, final=final)
        return Said(transcript, translations)

    def _translate(
        self, branch: KVCache, transcript: str, said: int, reach: Sequence[int] | None, *, final: bool
    ) -> Decoded[dict[str, Hypothesis]]:
        """Translations of the transcript that a sequence ends with.

        Args:
            branch: the sequence.
            transcript: its text.
            said: how many of its positions stand behind the audio.
            reach: the soft token that each token of the transcript rests on; None where nobody asks.
            final: whether the transcript is.
        """
        due = not is_blank(transcript) and (final or self._heard * TOKEN_SECONDS >= STALL_SECONDS)
        longest = min(self._config.max_new_tokens, SPARE_TOKENS + TRANSLATION_TOKENS * said)
        for target, text in self._translations.items():
            text.terms = self._biases.translation(self._config.source, target, transcript)
        how: dict[str, Any] = {"longest": longest, "heard": self._heard, "due": due, "reach": reach}
        how |= {"ffn_widths": self.ffn_widths, "beams": self._config.beams if final else 1}
        hypotheses = yield from together(
            [
                translate_into(target, text, self._model.prompt, branch, **how)
                for target, text in self._translations.items()
            ]
        )
        return dict(zip(self._translations, hypotheses, strict=True))
