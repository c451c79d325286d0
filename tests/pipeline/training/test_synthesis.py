"""Chunks of speech: what is in one depends on its number, not on who makes it, and files are whole."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training import synthesis, text
from pipeline.training.engines import training_voices
from pipeline.training.synthesis import (
    CHUNK,
    Chunk,
    chunk_path,
    claim,
    complete,
    draw_voice,
    in_background,
    plan,
    present,
    speak_chunks,
    synthesise,
)
from pipeline.training.text import Pair
from pipeline.training.voices import Speech

ESPEAK = ("espeak-ng",)


def pairs_of(**counts: int) -> list[Pair]:
    return [Pair("sí", "yes", language) for language, count in counts.items() for _ in range(count)]


@given(count=st.integers(1, 4 * CHUNK), seed=st.integers(0, 9))
def test_each_pass_reads_every_sentence_once_in_each_language(count: int, seed: int):
    per_pass = 2 * -(-count // CHUNK)
    items = list(itertools.islice(plan(pairs_of(es=count), seed), 2 * per_pass))

    assert [index for index, _, _ in items] == list(range(2 * per_pass))
    for one in (items[:per_pass], items[per_pass:]):
        for language in ("es", "en"):
            read = [sentence for _, spoken, some in one if spoken == language for sentence in some]
            assert sorted(read) == list(range(count))


@given(spanish=st.integers(1, 40 * CHUNK), french=st.integers(1, 40 * CHUNK), seed=st.integers(0, 9))
def test_languages_take_turns_by_their_shares(spanish: int, french: int, seed: int):
    """And English by the root of their number: less than both together, more than one of them."""
    pairs = pairs_of(es=spanish, fr=french)
    items = list(itertools.islice(plan(pairs, seed), 400))
    spoken = Counter(language for _, language, _ in items)
    shares = text.shares({"es": spanish, "fr": french})

    assert spoken["en"] / 400 == pytest.approx(1 / (1 + 2**0.5), abs=0.01)
    for language, share in shares.items():
        assert spoken[language] / (400 - spoken["en"]) == pytest.approx(share, abs=0.02)
    for _, language, some in items:
        others = {pairs[index].language for index in some}
        assert len(others) == 1
        assert language in {*others, "en"}
    # What is read first has not waited for a whole pass of the others.
    assert {language for _, language, _ in items[:12]} == {"es", "fr", "en"}


def test_passes_languages_and_seeds_read_in_orders_of_their_own():
    firsts = {
        (seed, index % 2, index // 4): tuple(some)
        for seed in (1, 2)
        for index, _, some in itertools.islice(plan(pairs_of(es=2 * CHUNK), seed), 8)
        if index % 4 < 2
    }

    assert len(firsts) == len(set(firsts.values())) == 8


def test_voices_are_drawn_by_their_shares():
    random = Random(0)
    drawn = Counter(draw_voice("en", random).name.split("-")[0] for _ in range(1_500))
    shares = {voices[0].name.split("-")[0]: share for share, voices in training_voices("en")}

    assert drawn.keys() == shares.keys()
    for engine, share in shares.items():
        assert drawn[engine] / 1_500 == pytest.approx(share, abs=0.04)


@pytest.mark.usefixtures("espeak_ng")
def test_a_chunk_depends_on_seed_and_number_alone(spanish):
    """Whatever was spoken before; but for the noise of the engine, which goes on."""
    items = [(index, language, some[:4]) for index, language, some in itertools.islice(plan(spanish, 1), 6)]
    forwards = dict(speak_chunks(spanish, 1, items, ESPEAK))
    backwards = dict(speak_chunks(spanish, 1, items[::-1], ESPEAK))
    other = dict(speak_chunks(spanish, 2, items, ESPEAK))

    for index, chunk in forwards.items():
        again = backwards[index]
        assert (chunk.language, chunk.voice) == (again.language, again.voice)
        np.testing.assert_array_equal(chunk.sentences, again.sentences)
        np.testing.assert_array_equal(chunk.word_counts, again.word_counts)
        np.testing.assert_allclose(chunk.lengths, again.lengths, rtol=0.05)
        np.testing.assert_allclose(chunk.word_ends, again.word_ends, atol=1_600)
    assert [chunk.voice for chunk in forwards.values()] != [chunk.voice for chunk in other.values()]


@pytest.mark.usefixtures("espeak_ng")
def test_a_chunk_holds_what_it_says(pairs):
    ((_, chunk),) = speak_chunks(pairs, 1, [(7, "en", [3, 1, 4])], ESPEAK)

    assert chunk.sentences.tolist() == [3, 1, 4]
    assert chunk.lengths.sum() == len(chunk.pcm)
    assert chunk.word_counts.tolist() == [len(pairs[index].target.split()) for index in (3, 1, 4)]
    last = np.cumsum(chunk.word_counts) - 1
    np.testing.assert_array_equal(chunk.word_ends[last], chunk.lengths)


@pytest.mark.usefixtures("espeak_ng")
def test_a_share_of_the_sentences_goes_through_opus(spanish):
    """With the words, their ends and the lengths that they had."""
    item = (4, "es", list(range(24)))
    ((_, plain),) = speak_chunks(spanish, 1, [item], ESPEAK)
    ((_, half),) = speak_chunks(spanish, 1, [item], ESPEAK, 0.5)

    np.testing.assert_array_equal(half.sentences, plain.sentences)
    np.testing.assert_allclose(half.lengths, plain.lengths, rtol=0.05)
    # Without a codec nothing of a formant synthesiser's band is lost; with few bits much of it is.
    ends = np.cumsum(half.lengths)[:-1]
    treble = [
        np.abs(np.fft.rfft(speech))[len(speech) * 7 // 16 :].sum() / np.abs(np.fft.rfft(speech)).sum()
        for speech in np.split(half.pcm.astype(float), ends)
    ]
    assert 3 < sum(share < 0.01 for share in treble) < 21


class Mumbler:
    """Says every other sentence only, and tells wrong word ends."""

    name, language = "mumbler", "es"

    def speak(self, texts, random):
        speech = Speech(np.arange(1, 11, dtype=np.int16), (5,))
        return [speech if index % 2 else None for index in range(len(texts))]


def test_what_a_voice_cannot_say_is_left_out(pairs, monkeypatch):
    monkeypatch.setattr(synthesis, "draw_voice", lambda *arguments: Mumbler())
    ((_, chunk),) = speak_chunks(pairs, 1, [(0, "es", [5, 6, 7, 8])])
    ((_, empty),) = speak_chunks(pairs, 1, [(1, "es", [5])])

    assert chunk.sentences.tolist() == [6, 8]
    assert chunk.pcm.tolist() == [*range(1, 11)] * 2
    # One word end for a sentence of several words says nothing.
    assert chunk.word_counts.tolist() == [0, 0]
    assert empty.sentences.size == empty.pcm.size == empty.word_ends.size == 0


def test_a_saved_chunk_is_read_back(tmp_path: Path, chunks: list[Chunk]):
    path = chunk_path(tmp_path, 12)
    chunks[0].save(path)
    read = Chunk.load(path)

    assert (read.language, read.voice) == (chunks[0].language, chunks[0].voice)
    for name in ("sentences", "lengths", "pcm", "word_counts", "word_ends"):
        expected = getattr(chunks[0], name)
        np.testing.assert_array_equal(getattr(read, name), expected)
        assert getattr(read, name).dtype == expected.dtype
    assert list(tmp_path.iterdir()) == [path]


def test_a_chunk_that_is_being_written_is_not_there_yet(tmp_path: Path, chunks, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        chunks[0].save(chunk_path(tmp_path, 0))
    assert not chunk_path(tmp_path, 0).exists()


@pytest.mark.usefixtures("espeak_ng")
def test_only_missing_chunks_are_made(tmp_path: Path, pairs):
    chunk_path(tmp_path, 1).write_text("made before")
    synthesise(pairs[:8], tmp_path, chunks=3, processes=1, seed=1, engines=ESPEAK)

    assert chunk_path(tmp_path, 1).read_text() == "made before"
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"chunk-00000{index}.npz" for index in range(3)
    ]
    assert complete(tmp_path, 3)
    assert not complete(tmp_path, 4)
    assert Chunk.load(chunk_path(tmp_path, 2)).language == "es"


def test_what_is_there_is_told_with_its_gaps(tmp_path: Path):
    for index in (0, 1, 3):
        chunk_path(tmp_path, index).touch()

    assert [present(tmp_path, chunks) for chunks in (1, 3, 4)] == [[0], [0, 1], [0, 1, 3]]
    assert [complete(tmp_path, chunks) for chunks in (1, 2, 3, 4)] == [True, True, False, False]


@pytest.mark.usefixtures("espeak_ng")
def test_no_chunk_is_begun_when_the_time_is_over(tmp_path: Path, pairs):
    """And those that were begun are finished: one process leaves no gap."""
    synthesise(pairs, tmp_path, chunks=1_000, processes=1, seed=1, engines=ESPEAK, seconds=0)
    assert not list(tmp_path.iterdir())

    synthesise(pairs, tmp_path, chunks=1_000, processes=1, seed=1, engines=ESPEAK, seconds=3)
    made = present(tmp_path, 1_000)
    assert len(made) < 1_000
    assert made == list(range(len(list(tmp_path.iterdir()))))


def children_of(pid: int) -> set[int]:
    """Processes that ``pid`` started, and those that they started."""
    try:
        own = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()
    return own.union(*(children_of(child) for child in own))


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells processes apart by /proc of Linux")
def test_no_process_outlives_the_block(tmp_path: Path, pairs):
    make = partial(synthesise, pairs, tmp_path, chunks=10_000, processes=2, seed=1, engines=ESPEAK)
    with in_background(make) as making:
        wait_until(chunk_path(tmp_path, 1).exists)
        assert making()
        (maker,) = multiprocessing.active_children()
        started = {maker.pid, *children_of(maker.pid)}

    assert len(started) >= 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 10)
    assert not making()


@pytest.mark.usefixtures("espeak_ng")
def test_the_background_ends_by_itself_when_all_is_made(tmp_path: Path, pairs):
    make = partial(synthesise, pairs[:4], tmp_path, chunks=1, processes=1, seed=1, engines=ESPEAK)
    with in_background(make) as making:
        wait_until(lambda: not making())
        assert complete(tmp_path, 1)
    assert not multiprocessing.active_children()


def test_a_folder_of_speech_belongs_to_one_text_and_one_seed(pairs, tmp_path):
    folder = tmp_path / "speech"
    claim(folder, pairs, seed=1)
    claim(folder, list(pairs), seed=1)

    with pytest.raises(ValueError, match="another text or another seed"):
        claim(folder, pairs, seed=2)
    with pytest.raises(ValueError, match="another text or another seed"):
        claim(folder, pairs[1:], seed=1)
