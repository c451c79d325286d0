"""A model that hears what is really said, for tests of what is made of its hypotheses.

Soft tokens carry in their first two places which word is spoken and how much of it is over. The oracle says
all words that it has heard, the last one wrongly while it is not complete, the first one wrongly if its
beginning was cut off, and translates a text by turning the letters of each word round. Its attention points
where a word is spoken, a little off.
"""

from __future__ import annotations

import random

import numpy as np

from pipeline.text.stability import words


class OracleCache:
    """The sequence itself in place of keys and values."""

    def __init__(self, ids=(), audio=()):
        self.ids, self.audio = list(ids), list(audio)

    @property
    def length(self):
        return len(self.ids)

    def fork(self):
        return OracleCache(self.ids, self.audio)

    def truncate(self, length):
        self.ids = self.ids[:length]


def soft_tokens(counts, hidden):
    """Soft tokens of words that are spoken for so many of them each."""
    tokens = np.zeros((sum(counts), hidden), np.float32)
    at = 0
    for number, count in enumerate(counts):
        for place in range(count):
            tokens[at + place, :2] = number, (place + 1) / count
        at += count
    return tokens


class Oracle:
    """Stands in for a :class:`~pipeline.model.Gemma3n`.

    Args:
        model: whose tokenizer and prompt to use.
        said: words, each with the space before it.
        counts: for how many soft tokens each is spoken.
        seed: of the errors of attention.
    """

    def __init__(self, model, said, counts, seed=0):
        self.prompt, self.tokenizer, self.config = model.prompt, model.tokenizer, model.config
        self.new_pool = model.new_pool
        self.said, self.counts = said, counts
        self.longest = 0
        self._heard = {}
        self._random = random.Random(seed)
        (self._end,) = self.tokenizer.special("<end_of_turn>")

    def new_cache(self, pool=None, limit=None):
        return OracleCache()

    def step(self, segments):
        return [self._answer(segment) for segment in segments]

    def heard(self, audio):
        """What is said in soft tokens, and which of them each word is spoken in."""
        text, places, spoken = [], [], {}
        for at, token in enumerate(audio):
            spoken.setdefault(int(token[0]), []).append(at)
        for number, where in spoken.items():
            whole = len(where) == self.counts[number]
            if whole or len(where) * 2 > self.counts[number]:
                text.append(self.said[number] if whole else " mmh")
                places.append(where)
        return text, places

    def _hear_all(self, audio):
        key = (len(audio), *audio[0][:2], *audio[-1][:2]) if audio else ()
        if key not in self._heard:
            text, places = self.heard(audio)
            self._heard = {key: (text, places, self.prompt.words("".join(text).strip()))}
        return self._heard[key]

    def _answer(self, segment):
        cache = segment.cache
        before = cache.length
        cache.ids += segment.token_ids
        if segment.audio is not None:
            cache.audio += list(segment.audio.numpy())
        self.longest = max(self.longest, len(cache.audio))
        behind = max(at for at, token in enumerate(cache.ids) if token == self.config.audio_token_id) + 1
        behind += len(self.prompt.after_audio())
        positions = range(before + len(segment.token_ids) - segment.keep, cache.length)
        return [self._choose(cache, behind, position, segment.watch) for position in positions]

    def _choose(self, cache, behind, position, watch):
        answer = cache.ids[behind : position + 1]
        label = self.prompt.translation_label("en")
        parts = [at for at in range(len(answer)) if answer[at : at + len(label)] == label]
        if not parts:
            _, places, expected = self._hear_all(cache.audio)
            if watch is not None:
                word = len(words(self.tokenizer.decode(expected[: len(answer) + 1]).strip())) - 1
                where = places[min(max(word, 0), len(places) - 1)] if places else [0]
                place = self._random.choice(where) + self._random.choice([-1, 0, 0, 1])
                watch.seen[position] = min(max(place, 0), watch.end - watch.first - 1)
        else:
            transcript = words(self.tokenizer.decode(answer[: parts[0]]).strip())
            expected = self.prompt.words("".join(turn(word) for word in transcript).strip())
            if watch is not None:
                watch.seen[position] = min(len(answer) - parts[0] - len(label), watch.end - watch.first - 1)
            answer = answer[parts[0] + len(label) :]
        if answer == expected[: len(answer)]:
            return expected[len(answer)] if len(answer) < len(expected) else self._end
        # Led astray, it goes on behind the last word that it was led to.
        return self._astray(answer, expected)

    def _astray(self, answer, expected):
        for at in range(len(expected), 0, -1):
            if answer and answer[-1] == expected[at - 1] and answer[-2:] == expected[max(0, at - 2) : at]:
                return expected[at] if at < len(expected) else self._end
        return self._end


def turn(word):
    """The translation of a word."""
    plain = word.strip().rstrip(".,")
    return word.replace(plain, plain[::-1])
