"""Examples: laid out as at inference, and the loss on what there is to learn from each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gemma.prompt import CONTEXT_TOKENS
from pipeline.speech import TAIL
from pipeline.training.batches import Batch, Batcher, Bucket, soft_tokens, spelled
from pipeline.training.engines import NEURAL
from pipeline.training.synthesis import Chunk
from pipeline.training.text import alphabet
from tests.pipeline.training.conftest import RECIPE, batcher_of

LETTERS = alphabet(RECIPE.languages)
DIRECTIONS = (("es", "en"), ("fr", "en"), ("en", "es"), ("en", "fr"))
TEXT, SHORT, MEDIUM, LONG = range(4)
BUCKETS = (
    Bucket(0.0, 12, 60, 0.25),
    Bucket(2.5, 12, 80, 0.25),
    Bucket(5.0, 12, 120, 0.25),
    Bucket(15.0, 4, 300, 0.25),
)


def draw(batcher: Batcher, index: int, times: int = 12) -> list[Batch]:
    return [batcher.batch(index) for _ in range(times)]


@dataclass
class Example:
    """One row of a batch, taken apart again."""

    batch: Batch
    row: int
    language: str
    named: str
    target: str
    answer: list[int]
    learned: list[int]
    text: str
    pieces: list[int]

    @property
    def transcript(self) -> str:
        return self.text.split("\n")[0].strip()

    @property
    def noise(self) -> bool:
        return not self.pieces and bool(self.batch.samples[self.row])


class Reader:
    """Knows how examples are laid out, and takes them apart."""

    def __init__(self, built, pairs, chunks: list[Chunk]) -> None:
        self.prompt, self.inner, self.audio_id = (
            built.prompt,
            built.prompt._tokenizer,
            built.learner.config.audio_token_id,
        )
        self.pairs = pairs
        self.said: dict[int, str] = {}
        self.samples: dict[int, int] = {}
        self.ends: dict[int, list[int]] = {}
        start = 0
        for chunk in chunks:
            ends = np.split(chunk.word_ends, np.cumsum(chunk.word_counts)[:-1])
            for sentence, length, words in zip(chunk.sentences, chunk.lengths, ends, strict=True):
                pair = pairs[sentence]
                self.said[start] = pair.side(chunk.language)
                self.samples[start] = int(length)
                self.ends[start] = [int(end) for end in words]
                start += int(length)
        self.end = start

    def examples(self, batches: list[Batch]) -> Iterator[Example]:
        for batch in batches:
            for row in range(len(batch.samples)):
                yield self._example(batch, row)

    def _example(self, batch: Batch, row: int) -> Example:
        ids, labels = batch.token_ids[row].tolist(), batch.labels[row]
        audio = [self.audio_id] * int(batch.tokens[row])
        heads = {
            direction: [*self.prompt.before_audio(*direction), *audio, *self.prompt.after_audio()]
            for direction in DIRECTIONS
        }
        (direction,) = (direction for direction, head in heads.items() if ids[: len(head)] == head)
        first = len(heads[direction])
        places = np.flatnonzero(labels != -100)
        # The label of a position is the token behind it, and none of them is of the question.
        assert labels[places].tolist() == [ids[at + 1] for at in places]
        assert places.min() >= first - 1
        answer = ids[first : places.max() + 2]
        (pieces,) = np.nonzero(batch.piece_example == row)
        text = self.inner.decode(answer)
        wanted = {"Spanish": "es", "French": "fr", "English": "en"}
        label = text.partition("\n")[2].partition(":")[0]
        # Of half a sentence and of noise, nothing says what they were to become.
        target = wanted.get(label, direction[1])
        learned = labels[places].tolist()
        return Example(batch, row, *direction, target, answer, learned, text, pieces.tolist())


@pytest.fixture(scope="module")
def reader(built, pairs, chunks) -> Reader:
    return Reader(built, pairs, chunks)


@pytest.fixture
def batcher(built, pairs, chunks) -> Batcher:
    batcher = batcher_of(built, pairs, BUCKETS)
    start = 0
    for chunk in chunks:
        batcher.add(chunk, start)
        start += len(chunk.pcm)
    return batcher


def test_whole_utterances_are_transcribed_and_translated(batcher, reader):
    translations = {
        side: other for p in reader.pairs for side, other in ((p.source, p.target), (p.target, p.source))
    }
    several, directions = 0, Counter()
    for example in reader.examples([*draw(batcher, SHORT), *draw(batcher, MEDIUM), *draw(batcher, LONG)]):
        sentences = [reader.said[int(start)] for start in example.batch.piece_source[example.pieces]]
        if not sentences or example.transcript != " ".join(sentences):
            continue
        translation = " ".join(translations[sentence] for sentence in sentences)
        target = example.target
        assert example.answer == reader.prompt.answer(example.transcript, target, translation)
        assert example.learned == example.answer
        assert (example.language, target) in DIRECTIONS
        directions[example.language, target] += 1
        several += len(sentences) > 1
    assert several > 10
    assert directions.keys() == set(DIRECTIONS)


def test_of_several_targets_the_instruction_may_name_another(batcher, reader):
    """A stream with several has one instruction and a translation for each."""
    examples = [example for example in reader.examples(draw(batcher, TEXT, 30)) if example.language == "en"]
    others = [example for example in examples if example.named != example.target]

    assert 0.05 < len(others) / len(examples) < 0.3


def test_of_a_cut_utterance_the_words_and_their_end_are_learned(batcher, reader):
    cuts = 0
    for example in reader.examples([*draw(batcher, SHORT), *draw(batcher, MEDIUM), *draw(batcher, LONG)]):
        if example.noise:
            continue
        starts = [int(start) for start in example.batch.piece_source[example.pieces]]
        last = example.pieces[-1]
        *whole, half = [reader.said[start] for start in starts]
        if example.batch.piece_samples[last] == reader.samples[starts[-1]]:
            continue
        cuts += 1
        newline = reader.prompt.translation_label("en")[0]
        assert example.learned == [*reader.prompt.words(example.transcript), newline]
        # It was cut where a word ends, give or take 75 ms, and nothing follows.
        kept = len(example.transcript.split()) - sum(len(sentence.split()) for sentence in whole)
        assert example.transcript == " ".join([*whole, " ".join(half.split()[:kept])])
        assert 0 <= example.batch.piece_samples[last] - reader.ends[starts[-1]][kept - 1] < 1_200
        end = (
            example.batch.piece_start[last]
            + example.batch.piece_samples[last] / example.batch.piece_speed[last]
        )
        assert example.batch.samples[example.row] == pytest.approx(end, abs=1)
    assert cuts > 10


def test_noise_is_answered_with_nothing(batcher, reader):
    noises = [example for example in reader.examples(draw(batcher, SHORT, 40)) if example.noise]

    assert 2 < len(noises) < 40
    for example in noises:
        assert example.learned == example.answer == reader.prompt.answer("", "en", "")
        assert example.batch.character_counts[example.row] == 0
        assert example.batch.tokens[example.row] > 0
    assert {example.language for example in noises} == {"es", "fr", "en"}


def test_of_text_without_audio_the_translation_alone_is_learned(batcher, reader):
    pairs = {(p.source, p.target) for p in reader.pairs} | {(p.target, p.source) for p in reader.pairs}
    languages = set()
    for example in reader.examples(draw(batcher, TEXT, 3)):
        said, meant = example.text.split("\n")
        label = reader.prompt.translation_label(example.target)
        assert (said.strip(), meant.split(": ", 1)[1]) in pairs
        assert reader.audio_id not in example.batch.token_ids[example.row]
        assert example.learned == [
            *label,
            *reader.prompt.words(meant.split(": ", 1)[1]),
            *reader.prompt.answer("", "es", ""),
        ]
        languages.add((example.language, example.target))
    assert languages == set(DIRECTIONS)


@pytest.mark.parametrize("index", [SHORT, MEDIUM, LONG])
def test_pieces_lie_behind_each_other_in_the_pool_and_in_the_example(batcher, reader, index: int):
    for batch in draw(batcher, index):
        for row, samples in enumerate(batch.samples):
            position = 0
            for piece in np.flatnonzero(batch.piece_example == row):
                source = int(batch.piece_source[piece])
                assert 0 < batch.piece_samples[piece] <= reader.samples[source]
                assert 0.75 <= batch.piece_speed[piece] <= 1.3
                assert batch.piece_start[piece] > position
                position = batch.piece_start[piece] + int(
                    batch.piece_samples[piece] / batch.piece_speed[piece]
                )
            assert position <= samples <= BUCKETS[index].samples
        assert reader.end > batch.piece_source.max(initial=0)


def test_rows_are_as_wide_as_the_bucket_says(batcher, built):
    question = max(len(built.prompt.before_audio(a, b)) for a, b in DIRECTIONS) + len(
        built.prompt.after_audio()
    )
    for index, bucket in enumerate(BUCKETS):
        batch = batcher.batch(index)
        audio = soft_tokens(bucket.samples) if bucket.samples else 0
        assert batch.token_ids.shape == batch.labels.shape == (bucket.size, question + audio + bucket.answer)
        assert (batch.labels != -100).sum(1).max() <= bucket.answer


def test_characters_are_those_of_the_transcript(batcher, reader):
    batch = batcher.batch(MEDIUM)
    ends = np.cumsum(batch.character_counts)
    for example, characters in zip(
        reader.examples([batch]), np.split(batch.characters, ends[:-1]), strict=True
    ):
        assert characters.tolist() == spelled(example.transcript, LETTERS)
    assert ends[-1] == len(batch.characters)


@given(st.text())
def test_spelling_keeps_letters_and_single_spaces(text: str):
    written = "".join(LETTERS[character - 1] for character in spelled(text, LETTERS))

    assert written == " ".join(written.split())
    assert spelled(written, LETTERS) == spelled(text, LETTERS)


def test_spelling_is_what_is_heard():
    assert (
        "".join(LETTERS[character - 1] for character in spelled("¿Qué -- dijo Ñandú-2, cœur ?", LETTERS))
        == "qué dijo ñandú 2 cœur"
    )


def test_soft_tokens_are_those_of_a_live_utterance(babbler):
    """As many as the service makes of the utterance and the zeros that it puts behind it."""
    for samples in (1, 400, 1_472, 1_473, 2_560, 16_000, 40_031, 40_032, 40_033, 71_111):
        tokens = babbler.audio_stream().push(np.zeros(samples + TAIL, np.float32))
        assert soft_tokens(samples) == len(tokens)


def test_the_seed_decides_everything(built, pairs, chunks):
    def drawn(seed: int) -> list[Batch]:
        batcher = batcher_of(built, pairs, BUCKETS, seed)
        batcher.add(chunks[0], 0)
        return [batcher.batch(index) for index in (SHORT, TEXT, LONG, SHORT)]

    first, again, other = drawn(1), drawn(1), drawn(2)

    for one, two in zip(first, again, strict=True):
        for name, values in vars(one).items():
            np.testing.assert_array_equal(values, getattr(two, name))
    for one, two in zip(first, other, strict=True):
        assert (one.token_ids != two.token_ids).any()


def test_some_answers_are_hard_to_read_and_all_of_them_are_learned(built, pairs, chunks):
    """Half of the examples do not see a third of what they go on from; the labels are the same."""
    mask = 3
    batcher = Batcher(
        pairs,
        built.prompt,
        audio_id=built.learner.config.audio_token_id,
        buckets=(Bucket(2.5, 200, 80, 1.0),),
        seed=5,
        unreadable=1 / 3,
        mask_id=mask,
    )
    batcher.add(chunks[0], 0)
    batch = batcher.batch(0)
    hidden, answered = batch.token_ids[:, 1:] == mask, batch.labels[:, :-1] != -100
    spoiled = hidden.any(1)

    assert not (hidden & (np.cumsum(answered, 1) == 0)).any()
    np.testing.assert_array_equal(
        batch.token_ids[:, 1:][answered & ~hidden], batch.labels[:, :-1][answered & ~hidden]
    )
    assert (batch.labels != mask).all()
    assert spoiled.mean() == pytest.approx(0.5, abs=0.12)
    assert hidden[spoiled].sum() / answered[spoiled].sum() == pytest.approx(1 / 3, abs=0.06)


def test_some_batches_are_told_what_was_said_before(built, pairs, chunks):
    """In the form and the room that a stream has for it, and with words that come again."""
    batcher = batcher_of(built, pairs, BUCKETS, told=0.5)
    batcher.add(chunks[0], 0)
    plain = batcher_of(built, pairs, BUCKETS)
    plain.add(chunks[0], 0)
    audio_id, prompt = built.learner.config.audio_token_id, built.prompt
    usual = plain.batch(SHORT).token_ids.shape[1]
    heads = {direction: prompt.before_audio(*direction) for direction in DIRECTIONS}
    tail = prompt.before_audio("es", "en", [audio_id])[-2:]
    told, texts = 0, []
    for batch in draw(batcher, SHORT, 20):
        if batch.token_ids.shape[1] == usual:
            continue
        told += 1
        assert batch.token_ids.shape[1] == usual + CONTEXT_TOKENS
        for ids, labels, count in zip(batch.token_ids.tolist(), batch.labels, batch.tokens, strict=True):
            first = ids.index(audio_id)
            assert ids[first : first + count] == [audio_id] * int(count)
            assert ids[first - 2 : first] == tail
            (head,) = (head[:-2] for head in heads.values() if ids[: len(head) - 2] == head[:-2])
            assert 0 < first - 2 - len(head) <= CONTEXT_TOKENS
            texts.append(prompt._tokenizer.decode(ids[len(head) : first - 2]))
            assert np.flatnonzero(labels != -100).min() > first + count

    assert 3 < told < 17
    # Some are told a name besides, before the sentences.
    assert any(text.startswith("\nSaid before: Tom ") for text in texts)
    sentences = {pair.source for pair in pairs if pair.language == "es"}
    assert all(text.startswith("\nSaid before: ") for text in texts)
    # Of at least some the whole sentence is one of the language's.
    assert len({text.removeprefix("\nSaid before: ") for text in texts} & sentences) > 3


def test_text_without_audio_is_told_nothing(built, pairs):
    told, plain = (batcher_of(built, pairs, BUCKETS, told=share).batch(TEXT) for share in (1.0, 0.0))

    np.testing.assert_array_equal(told.token_ids, plain.token_ids)


def test_new_chunks_are_drawn_from(built, pairs, chunks):
    batcher = batcher_of(built, pairs, BUCKETS)
    batcher.add(chunks[0], 0)
    before = np.concatenate([batch.piece_source for batch in draw(batcher, MEDIUM, 4)])
    batcher.add(chunks[1], len(chunks[0].pcm))
    after = np.concatenate([batch.piece_source for batch in draw(batcher, MEDIUM, 4)])

    assert batcher.chunks == 2
    assert before.max() < len(chunks[0].pcm) < after.max()


def test_a_sentence_that_nobody_translated_is_learned_to_be_heard(built, pairs, chunks):
    """Its words and their end, as of half a sentence; no example mixes such sentences with others."""
    half = [*pairs]
    for index in range(0, len(pairs), 3):
        half[index] = replace(pairs[index], target="")
    reader = Reader(built, half, chunks[:1])
    batcher = batcher_of(built, half, BUCKETS)
    batcher.add(chunks[0], 0)
    translated = {True: 0, False: 0}
    for example in reader.examples([*draw(batcher, SHORT), *draw(batcher, MEDIUM), *draw(batcher, LONG)]):
        starts = [int(start) for start in example.batch.piece_source[example.pieces]]
        sentences = [reader.said[start] for start in starts]
        if not sentences or example.transcript != " ".join(sentences):
            continue
        (whole,) = {pair.whole for pair in half if pair.source in sentences}
        translated[whole] += 1
        words, newline = reader.prompt.words(example.transcript), reader.prompt.translation_label("en")[0]
        assert (example.learned == [*words, newline]) is not whole
    assert min(translated.values()) > 10


def test_text_without_audio_and_contexts_are_of_whole_pairs(built, pairs, chunks):
    whole = pairs[:20] + pairs[500:520]
    alone = [replace(pair, target="") for pair in pairs[20:60]] + [replace(pairs[60], source="")]
    batcher = batcher_of(built, [*whole, *alone], BUCKETS)
    said = {pair.source for pair in whole} | {pair.target for pair in whole}
    reader = Reader(built, [*whole, *alone], [])

    assert {
        example.text.split("\n")[0].strip() for example in reader.examples(draw(batcher, TEXT, 9))
    } <= said


def test_neural_voices_keep_their_share_whatever_the_others_have_made(built, pairs, chunks):
    batcher = batcher_of(built, pairs, (Bucket(2.5, 400, 80, 1.0),))
    batcher.add(replace(chunks[0], voice="kokoro-f"), 0)
    for number in range(1, 6):
        batcher.add(chunks[number % 4], 10**9 * number)
    batch = batcher.batch(0)
    neural = (batch.piece_source < 10**9).mean()

    assert neural == pytest.approx(NEURAL, abs=0.12)
