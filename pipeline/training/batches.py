"""Training examples: which speech, in which order, with what text to expect.

Live streams bring single sentences, several in a row with and without pauses, utterances cut in
mid-sentence, and noise without speech. Every example is laid out as at inference: prompt, audio soft
tokens, turn change, answer; the loss is on the answer alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt

from pipeline.config import SAMPLE_RATE
from pipeline.gemma.prompt import CONTEXT_TOKENS, Prompt
from pipeline.training.companions import Companions
from pipeline.training.engines import NEURAL
from pipeline.training.neural import is_neural
from pipeline.training.synthesis import Chunk
from pipeline.training.text import ENGLISH, Pair, alphabet, by_language, shares

MOST_BEFORE = 6
"""Sentences that were said before, at most."""
_NAME = re.compile(r"(?<=\w )[A-ZÀ-Ý]\w+")
TOKEN_SAMPLES = 2560
TAIL_SAMPLES = 1472


@dataclass(frozen=True)
class Bucket:
    """Examples of one static shape.

    Args:
        seconds: longest audio; 0 for text without audio, of which the translation alone is learned.
        size: examples in a batch.
        answer: longest answer in tokens.
        share: of all steps.
    """

    seconds: float
    size: int
    answer: int
    share: float

    @property
    def samples(self) -> int:
        """Longest audio in samples."""
        return int(self.seconds * SAMPLE_RATE)


@dataclass(frozen=True)
class Batch:
    """One step's examples on the CPU. ``B`` examples, ``L`` positions, ``S`` pieces of speech.

    Args:
        samples: audio samples of each example, int64 [B].
        piece_example: which example each piece belongs to, int64 [S].
        piece_source: where the piece begins in the pool, int64 [S].
        piece_samples: its samples in the pool, int64 [S].
        piece_start: where it begins in its example, int64 [S].
        piece_speed: pool samples per example sample, float32 [S].
        piece_gain: factor, float32 [S].
        token_ids: int64 [B, L], padded with 0.
        labels: id to predict at each position, int64 [B, L], -100 where there is no loss.
        characters: CTC targets in a row, int64.
        character_counts: CTC target length of each example, int64 [B].
        tokens: audio soft tokens of each example, int64 [B].
    """

    samples: npt.NDArray[np.int64]
    piece_example: npt.NDArray[np.int64]
    piece_source: npt.NDArray[np.int64]
    piece_samples: npt.NDArray[np.int64]
    piece_start: npt.NDArray[np.int64]
    piece_speed: npt.NDArray[np.float32]
    piece_gain: npt.NDArray[np.float32]
    token_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    characters: npt.NDArray[np.int64]
    character_counts: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


def soft_tokens(samples: int) -> int:
    """Audio soft tokens that ``samples`` of audio, and the zeros that follow it, make (160 ms each)."""
    return max(1, (samples + TOKEN_SAMPLES - TAIL_SAMPLES - 1) // TOKEN_SAMPLES + 1)


def spelled(text: str, letters: str) -> list[int]:
    """Classes 1... of the auxiliary CTC loss, 0 being its blank: letters in lower case, single spaces.

    Args:
        text: what is said.
        letters: from :func:`pipeline.training.text.alphabet`.
    """
    kept = re.sub(f"[^{letters}]+", " ", text.lower()).strip()
    return [letters.index(character) + 1 for character in re.sub(" +", " ", kept)]


@dataclass
class _Utterance:
    chunk: int
    row: int
    source: int
    samples: int
    sentence: int
    word_ends: tuple[int, ...]


@dataclass
class _Piece:
    source: int
    samples: int
    start: int
    speed: float
    gain: float


@dataclass
class _Example:
    samples: int
    pieces: list[_Piece]
    source: str
    target: str
    transcript: str
    translation: str | None
    sentences: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)


class Batcher:
    """Draws batches from the speech that is there so far.

    Args:
        pairs: the training text.
        prompt: lays out the answers.
        audio_id: placeholder id of an audio soft token.
        buckets: the shapes.
        seed: of everything drawn here.
        unreadable: share of the answer's tokens that half of the examples do not see while they go on from
            them, so that the model does not finish a sentence by heart that it should hear.
        mask_id: stands for such a token.
        told: share of the batches of speech that are told before the audio what was said before.
        companions: from :func:`pipeline.training.companions.companions`; needed if any are told.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        prompt: Prompt,
        *,
        audio_id: int,
        buckets: Sequence[Bucket],
        seed: int,
        unreadable: float = 0.0,
        mask_id: int = 0,
        told: float = 0.0,
        companions: Mapping[str, Companions] | None = None,
    ) -> None:
        self.buckets = tuple(buckets)
        self._pairs = pairs
        self._prompt = prompt
        self._audio_id = audio_id
        self._unreadable, self._mask_id = unreadable, mask_id
        self._random = Random(seed)
        indices = by_language(pairs)
        self._texts = {
            language: [index for index in own if pairs[index].whole] for language, own in indices.items()
        }
        self._shares = shares({language: len(own) for language, own in indices.items()})
        self._languages = (*self._texts, ENGLISH)
        self._letters = alphabet(self._languages)
        self._told = told
        self._companions = companions or {}
        self._after = prompt.after_audio()
        self._chunks: list[list[_Utterance]] = []
        self._spoken: list[str] = []
        self._of_engine: dict[bool, list[int]] = {}
        directions = [pair for language in self._texts for pair in ((language, ENGLISH), (ENGLISH, language))]
        self._before = {direction: prompt.before_audio(*direction) for direction in directions}
        self._width = max(map(len, self._before.values()))

    @property
    def chunks(self) -> int:
        """How many chunks are known."""
        return len(self._chunks)

    def add(self, chunk: Chunk, offset: int) -> None:
        """Make a chunk known whose audio begins at ``offset`` of the pool."""
        starts = offset + np.concatenate([[0], np.cumsum(chunk.lengths)])
        words = np.concatenate([[0], np.cumsum(chunk.word_counts)])
        self._of_engine.setdefault(is_neural(chunk.voice), []).append(len(self._chunks))
        self._spoken.append(chunk.language)
        # Those that nobody translated together, so that most examples of several are of one kind.
        self._chunks.append(
            sorted(
                [
                    _Utterance(
                        len(self._chunks),
                        row,
                        int(starts[row]),
                        int(chunk.lengths[row]),
                        int(chunk.sentences[row]),
                        tuple(int(end) for end in chunk.word_ends[words[row] : words[row + 1]]),
                    )
                    for row in range(len(chunk.sentences))
                ],
                key=lambda utterance: self._pairs[utterance.sentence].whole,
            )
        )

    def batch(self, index: int) -> Batch:
        """A batch of bucket ``index``."""
        bucket = self.buckets[index]
        told = bool(bucket.samples and self._told) and self._random.random() < self._told
        rows: list[tuple[_Example, list[int], list[int]]] = []
        shortest = self.buckets[index - 1].samples * 2 // 3 if index else 0
        # What was said before takes more positions than most examples themselves.
        size = -(-bucket.size // 2) if told else bucket.size
        while len(rows) < size:
            example = self._example(bucket, shortest)
            if example and told:
                example.before = self._said_before(example)
            answer = self._answer(example) if example else None
            if example and answer and len(answer[0]) <= bucket.answer:
                rows.append((example, *answer))
        return self._collate(bucket, rows, CONTEXT_TOKENS if told else 0)

    def _example(self, bucket: Bucket, shortest: int) -> _Example | None:
        if not bucket.samples:
            other = self._some_language()
            pair = self._pairs[self._random.choice(self._texts[other])]
            language = self._random.choice((other, ENGLISH))
            sentence, target, translation = pair.turned(language)
            return _Example(0, [], language, target, sentence, translation)
        draw = self._random.random()
        if draw < 0.04:
            seconds = self._random.uniform(0.3, bucket.seconds)
            language = self._random.choice(self._languages)
            target = self._some_language() if language == ENGLISH else ENGLISH
            return _Example(int(seconds * SAMPLE_RATE), [], language, target, "", "")
        chunk_index = self._random.choice(self._some_engine())
        chunk, language = self._chunks[chunk_index], self._spoken[chunk_index]
        if not chunk:
            return None
        speed = self._random.uniform(0.75, 1.3) if self._random.random() < 0.8 else 1.0
        start = int(self._random.uniform(0.02, 0.45) * SAMPLE_RATE)
        tail = int(self._random.uniform(0.05, 0.7) * SAMPLE_RATE)
        limit = bucket.samples - tail
        first = self._random.randrange(len(chunk))
        pieces: list[_Piece] = []
        said: list[str] = []
        meant: list[str] = []
        position = start
        # Short buckets are filled by single sentences, long ones by as many as they hold.
        most = 1 if bucket.seconds <= 3 else self._random.choice((1, 1, 2)) if bucket.seconds <= 5 else 99
        if most == 99:
            limit = int(self._random.uniform(0.6, 1.0) * limit)
        cut = False
        for utterance in (chunk[(first + k) % len(chunk)] for k in range(min(most, len(chunk)))):
            length = int(utterance.samples / speed)
            sentence, target, translation = self._pairs[utterance.sentence].turned(language)
            if meant and bool(translation) != bool(meant[0]):
                break
            can_cut = len(utterance.word_ends) > 2 and draw > 0.86
            if can_cut and (most == 1 or position + length > limit):
                keep = self._random.randrange(1, len(utterance.word_ends))
                end = utterance.word_ends[keep - 1] + self._random.randrange(0, 1200)
                if end < utterance.samples and position + int(end / speed) <= limit:
                    pieces.append(_Piece(utterance.source, end, position, speed, 1.0))
                    said.append(" ".join(sentence.split()[:keep]))
                    position += int(end / speed)
                    # Nothing follows a cut: the listener stands in the middle of the sentence.
                    cut, tail = True, 0
                    break
            if position + length > limit:
                break
            pieces.append(_Piece(utterance.source, utterance.samples, position, speed, 1.0))
            said.append(sentence)
            meant.append(translation)
            pause = 0.03 if self._random.random() < 0.25 else self._random.uniform(0.08, 1.0)
            position += length + int(pause * SAMPLE_RATE)
        if not pieces or position < shortest:
            return None
        last = pieces[-1]
        samples = min(last.start + int(last.samples / speed) + tail, bucket.samples)
        return _Example(
            samples,
            pieces,
            language,
            target,
            " ".join(said),
            None if cut or not meant[0] else " ".join(meant),
            [chunk[(first + k) % len(chunk)].sentence for k in range(len(pieces))],
        )

    def _said_before(self, example: _Example) -> list[int]:
        """What a stream might tell: sentences from before, some of which have to do with it, and names."""
        language = example.source
        said = []
        for _ in range(self._random.randint(1, MOST_BEFORE)):
            other = self._some_language() if language == ENGLISH else language
            said.append(self._pairs[self._random.choice(self._texts[other])].side(language))
        for sentence in example.sentences:
            companion = self._companions[language].of(sentence, self._random)
            if companion is not None:
                said[self._random.randrange(len(said))] = companion
        names = dict.fromkeys(_NAME.findall(" ".join([example.transcript, *said])))
        return self._prompt.context(" ".join(names) if self._random.random() < 0.3 else "", said)

    def _some_engine(self) -> list[int]:
        """Chunks of neural voices by their share, whatever there is of the others', or these."""
        kinds = list(self._of_engine)
        return self._of_engine[
            self._random.choices(kinds, [NEURAL if kind else 1 - NEURAL for kind in kinds])[0]
        ]

    def _some_language(self) -> str:
        """One of those beside English, by its share."""
        if len(self._texts) == 1:
            return next(iter(self._texts))
        return self._random.choices(list(self._shares), list(self._shares.values()))[0]

    def _answer(self, example: _Example) -> tuple[list[int], list[int]]:
        """Token ids of the answer, and those of them that count in the loss."""
        target = example.target
        if example.translation is None:
            # What a half sentence means is not known yet: only its words and their end are learned.
            words = self._prompt.words(example.transcript)
            label = self._prompt.translation_label(target)
            return [*words, *label], [*words, label[0], *[-100] * (len(label) - 1)]
        ids = self._prompt.answer(example.transcript, target, example.translation)
        if not example.samples:
            # Nothing was said that could tell the transcript; it is given, as it is to a translator.
            given = len(self._prompt.words(example.transcript))
            return ids, [-100] * given + ids[given:]
        return ids, list(ids)

    def _named(self, example: _Example) -> str:
        """The target that the instruction names; of several that a stream asks for, it is one."""
        if example.source != ENGLISH or len(self._texts) == 1 or self._random.random() < 0.75:
            return example.target
        return self._some_language()

    def _read(self, answer: list[int]) -> list[int]:
        """The answer as the model reads it while it writes it."""
        if not self._unreadable or self._random.random() < 0.5:
            return answer
        return [self._mask_id if self._random.random() < self._unreadable else token for token in answer]

    def _collate(
        self, bucket: Bucket, rows: Sequence[tuple[_Example, list[int], list[int]]], room: int
    ) -> Batch:
        longest = soft_tokens(bucket.samples) if bucket.samples else 0
        width = self._width + room + longest + len(self._after) + bucket.answer
        token_ids = np.zeros((len(rows), width), np.int64)
        labels = np.full((len(rows), width), -100, np.int64)
        tokens = np.zeros(len(rows), np.int64)
        pieces: list[tuple[int, _Piece]] = []
        characters: list[list[int]] = []
        for row, (example, answer, counted) in enumerate(rows):
            tokens[row] = soft_tokens(example.samples) if bucket.samples else 0
            direction = example.source, self._named(example)
            head = [
                *(
                    self._prompt.before_audio(*direction, example.before)
                    if example.before
                    else self._before[direction]
                ),
                *[self._audio_id] * int(tokens[row]),
                *self._after,
            ]
            token_ids[row, : len(head) + len(answer)] = head + self._read(answer)
            labels[row, len(head) - 1 : len(head) - 1 + len(counted)] = counted
            pieces += [(row, piece) for piece in example.pieces]
            characters.append(spelled(example.transcript, self._letters) if bucket.samples else [])
        return Batch(
            np.array([example.samples for example, _, _ in rows], np.int64),
            np.array([row for row, _ in pieces], np.int64),
            np.array([piece.source for _, piece in pieces], np.int64),
            np.array([piece.samples for _, piece in pieces], np.int64),
            np.array([piece.start for _, piece in pieces], np.int64),
            np.array([piece.speed for _, piece in pieces], np.float32),
            np.array([piece.gain for _, piece in pieces], np.float32),
            token_ids,
            labels,
            np.array([c for text in characters for c in text], np.int64),
            np.array([len(text) for text in characters], np.int64),
            tokens,
        )
