"""Talks are what they say they are."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from benchmarks.quality import Clip
from benchmarks.talks import compose, held_out_talks, nobody, recorded_talks


def tone(seconds, level=0.5):
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (level * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def test_sentences_are_where_the_talk_says():
    silence = np.zeros(3_200, np.float32)
    clips = [
        Clip(np.concatenate([silence, tone(length), silence]), f"s{length}", f"t{length}")
        for length in (0.5, 1.0)
    ]
    talk = compose("x.wav", "es", "en", clips, pauses=(0.2, 0.4))
    first, second = talk.sentences

    assert (first.said, second.meant) == ("s0.5", "t1.0")
    assert first.end - first.start == pytest.approx(0.5, abs=0.01)
    assert 0.2 <= second.start - first.end <= 0.41
    for sentence in talk.sentences:
        begin, end = round(sentence.start * 16_000), round(sentence.end * 16_000)
        assert np.abs(talk.waveform[begin:end]).max() > 0.4
        assert np.abs(talk.waveform[begin - 1_000 : begin - 10]).max() < 0.01
    assert len(talk.clips[1].waveform) == pytest.approx(16_000, abs=100)


def test_there_need_be_no_pause():
    talk = compose("x.wav", "es", "en", [Clip(tone(0.5), "a", "b")] * 3, pauses=(0.0, 0.0))

    assert [b.start - a.end for a, b in zip(talk.sentences, talk.sentences[1:], strict=False)] == [0, 0]


def test_a_room_is_no_speech_and_soft_ends_are_kept():
    room = (0.01 * np.random.default_rng(0).uniform(-1, 1, 8_000)).astype(np.float32)
    clip = Clip(np.concatenate([room, tone(1.0), room]), "a", "b")
    talk = compose("x.wav", "es", "en", [clip, clip], pauses=(0, 0), audible=0.05, ends=0.3)

    for sentence, begin in zip(talk.sentences, (1.3, 2.9), strict=True):
        assert (sentence.start, sentence.end) == pytest.approx((begin, begin + 1.0), abs=0.005)
    assert len(talk.clips[0].waveform) == pytest.approx(1.6 * 16_000, abs=50)


@pytest.mark.usefixtures("espeak_ng")
def test_held_out_talks_go_both_ways():
    spanish, english = held_out_talks([("es", "en"), ("en", "es")], 2, (0.3, 0.5))

    assert (spanish.source, spanish.target) == (english.target, english.source) == ("es", "en")
    assert [s.said for s in spanish.sentences] == [s.meant for s in english.sentences]


def test_talks_of_people_are_of_recordings_whose_translation_is_known(tmp_path):
    rows = ["file\tlang\ttranscript\ttranslation"]
    for name, language, meant in (
        *(("1", "es", "en: one"), ("2", "es", ""), ("3", "es", "en: three"), ("4", "es", "en: four")),
        *(("5", "fr", "en: five"), ("6", "en", "es: seis")),
    ):
        soundfile.write(tmp_path / f"{name}.wav", tone(0.2), 16_000)
        rows.append(f"{name}.wav\t{language}\tsaid {name}\t{meant}")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    wanted = [("es", "en"), ("en", "fr"), ("en", "es")]
    talks = recorded_talks(tmp_path, wanted, 2, (0.1, 0.1))

    assert [(talk.name, talk.source, talk.target) for talk in talks] == [
        ("talk-es-en.wav", "es", "en"),
        ("talk-en-es.wav", "en", "es"),
    ]
    assert [[s.said for s in talk.sentences] for talk in talks] == [["said 1", "said 3"], ["said 6"]]
    assert [s.meant for s in talks[0].sentences] == ["one", "three"]
    assert [len(clip.waveform) for clip in talks[0].clips] == pytest.approx([3_200, 3_200], abs=20)


def test_nobody_speaks_for_as_long_as_asked():
    audio = nobody(7.0)

    assert len(audio) == 7 * 16_000
    assert 0 < np.abs(audio).max() <= 1
