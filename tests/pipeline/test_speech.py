"""The front half: utterances and their soft tokens, whatever the cut."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import AudioFormat, StreamConfig
from pipeline.errors import AudioError
from pipeline.speech import (
    TAIL,
    Silence,
    SpeechEncoder,
    SpeechEnded,
    SpeechHeard,
    SpeechPaused,
    SpeechStarted,
)

CONFIG = StreamConfig(audio=AudioFormat("pcm_f32le"))


def cut(data: bytes, rng: Random, count: int) -> list[bytes]:
    places = sorted(rng.randrange(len(data)) for _ in range(count))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def hear(model, pieces, config=CONFIG):
    encoder = SpeechEncoder(model, config)
    events = [event for piece in pieces for event in encoder.push(piece)]
    return events + encoder.flush()


def spoken(events):
    """Of each utterance where it starts, where it ends, and all its soft tokens."""
    utterances, last = [], None
    for event in events:
        match event:
            case SpeechStarted(time=time):
                utterances.append([time, None, []])
            case SpeechHeard(tokens=tokens):
                utterances[-1][2].append(tokens)
            case SpeechPaused(tokens=last):
                pass
            case SpeechEnded(time=time):
                utterances[-1][1] = time
                utterances[-1][2].append(last)
    return [(start, end, np.concatenate(tokens)) for start, end, tokens in utterances]


def test_utterances_come_with_all_their_soft_tokens(babbler, talk):
    utterances = spoken(hear(babbler, [talk.tobytes()]))

    assert len(utterances) == 3
    for start, end, tokens in utterances:
        samples = round((end - start) * 16_000)
        assert end - start == pytest.approx(3.3, abs=0.3)
        # One token each 160 ms from 92 ms on, and one that sees the rest.
        assert len(tokens) == (samples - 1_473) // 2_560 + 2


def test_soft_tokens_are_those_of_the_utterance_alone(babbler, talk):
    start, end, tokens = spoken(hear(babbler, [talk.tobytes()]))[1]
    alone = talk[round(start * 16_000) : round(end * 16_000)]
    stream = babbler.audio_stream()
    expected = np.concatenate([stream.push(alone), stream.push(np.zeros(TAIL, np.float32))])

    np.testing.assert_allclose(tokens, expected, atol=1e-4)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), count=st.integers(0, 60))
def test_the_cut_makes_no_difference(babbler, talk, rng, count):
    whole = spoken(hear(babbler, [talk.tobytes()]))
    pieces = spoken(hear(babbler, cut(talk.tobytes(), rng, count)))

    assert [u[:2] for u in pieces] == [u[:2] for u in whole]
    for (_, _, got), (_, _, expected) in zip(pieces, whole, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_events_know_how_much_has_been_heard(babbler, talk):
    encoder = SpeechEncoder(babbler, CONFIG)
    for begin in range(0, len(talk), 4_000):
        events = encoder.push(talk[begin : begin + 4_000].tobytes())
        assert {event.audio_time for event in events} <= {encoder.audio_time}
        assert all(event.time <= event.audio_time for event in events)
    assert encoder.audio_time == len(talk) / 16_000


def test_silence_is_told_once_a_second_and_costs_nothing_else(babbler):
    encoder = SpeechEncoder(babbler, CONFIG)
    events = [event for _ in range(100) for event in encoder.push(bytes(4 * 1_600))]

    assert {type(event) for event in events} == {Silence}
    times = [event.time for event in events]
    assert times == sorted(times)
    assert len(times) == 9 or len(times) == 8
    assert 8 <= times[-1] <= 10


def test_silence_is_never_told_of_speech(babbler, talk):
    encoder = SpeechEncoder(babbler, CONFIG)
    silent_until = 0.0
    for begin in range(0, len(talk), 1_600):
        for event in encoder.push(talk[begin : begin + 1_600].tobytes()):
            if isinstance(event, Silence):
                silent_until = event.time
            if isinstance(event, SpeechStarted):
                assert event.time >= silent_until


def test_a_flush_ends_the_utterance_and_the_stream_goes_on(babbler, talk):
    encoder = SpeechEncoder(babbler, CONFIG)
    first = encoder.push(talk[: 16_000 * 3].tobytes())
    ended = encoder.flush()
    rest = [*encoder.push(talk[16_000 * 3 :].tobytes()), *encoder.flush()]
    utterances = spoken([*first, *ended, *rest])

    assert not any(isinstance(event, SpeechEnded) for event in first)
    assert isinstance(ended[-1], SpeechEnded)
    assert ended[-1].time == pytest.approx(3.0, abs=0.05)
    assert [end for _, end, _ in utterances] == sorted(end for _, end, _ in utterances)
    assert len(utterances) == 4
    assert encoder.flush() == []


def test_audio_in_other_formats_is_heard_alike(babbler, speech):
    """44.1 kHz stereo at 16 bits gives the same utterance as 16 kHz mono floats."""
    import soxr

    padded = np.pad(speech, (16_000, 16_000))
    stereo = np.repeat(soxr.resample(padded, 16_000, 44_100)[:, None], 2, axis=1)
    data = np.clip(stereo * 32_768, -32_768, 32_767).astype("<i2").tobytes()
    config = StreamConfig(audio=AudioFormat("pcm_s16le", 44_100, 2))
    ((start, end, tokens),) = spoken(hear(babbler, [data], config))
    ((expected_start, expected_end, expected),) = spoken(hear(babbler, [padded.tobytes()]))

    assert (start, end) == pytest.approx((expected_start, expected_end), abs=0.1)
    assert abs(len(tokens) - len(expected)) <= 1


def test_speech_without_a_pause_is_encoded_as_one_piece(babbler, speech):
    spoken_long = np.tile(speech[8_000:-8_000], 16)
    ((start, end, tokens),) = spoken(hear(babbler, [spoken_long.tobytes()]))
    whole = babbler.audio_stream().push(spoken_long[round(start * 16_000) : round(end * 16_000)]).numpy()

    assert end - start > 30
    np.testing.assert_allclose(tokens[: len(whole)], whole, atol=1e-4)


def test_samples_that_are_not_audio_are_refused(babbler):
    with pytest.raises(AudioError, match="nan"):
        SpeechEncoder(babbler, CONFIG).push(np.full(10, np.nan, "<f4").tobytes())


def hear_elsewhere(model, pieces, config, moves):
    """As if the encoder were lost behind some pieces: another one begins with its last checkpoint."""
    encoder, checkpoint, since, events = SpeechEncoder(model, config), None, [], []
    for number, piece in enumerate(pieces):
        events += encoder.push(piece)
        since.append(piece)
        if (newer := encoder.checkpoint()) is not None:
            checkpoint, since = newer, []
        if number in moves:
            encoder = SpeechEncoder(model, config)
            if checkpoint is not None:
                encoder.resume(checkpoint)
            for again in since:
                encoder.push(again)
    return events + encoder.flush()


@pytest.mark.parametrize("rate", [16_000, 44_100])
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
def test_another_encoder_goes_on_from_a_checkpoint(babbler, talk, rng, rate):
    """With the same events for the same pieces, wherever that happens."""
    config = StreamConfig(audio=AudioFormat("pcm_f32le", rate))
    audio = soxr.resample(np.concatenate([talk, talk[:80_000]]), 16_000, rate)
    pieces = cut(audio.tobytes(), rng, 150)
    whole = hear(babbler, pieces, config)
    moved = hear_elsewhere(babbler, pieces, config, rng.sample(range(150), 12))

    assert [type(event) for event in moved] == [type(event) for event in whole]
    for there, here in zip(moved, whole, strict=True):
        assert (there.time, there.audio_time) == (here.time, here.audio_time)
        if isinstance(here, SpeechHeard | SpeechPaused):
            np.testing.assert_allclose(there.tokens, here.tokens, atol=1e-4)


def test_checkpoints_come_with_every_utterance_and_are_small(babbler, talk):
    encoder, sizes, ends = SpeechEncoder(babbler, CONFIG), [], 0
    for begin in range(0, len(talk), 1_600):
        ends += sum(
            isinstance(event, SpeechEnded) for event in encoder.push(talk[begin : begin + 1_600].tobytes())
        )
        if (checkpoint := encoder.checkpoint()) is not None:
            sizes.append(len(checkpoint))

    assert 3 == ends <= len(sizes) < 10
    assert max(sizes) < 80_000
    for _ in range(60):
        encoder.push(bytes(4 * 16_000))
        sizes.append(len(encoder.checkpoint() or b""))
    assert 10 <= np.count_nonzero(sizes[-60:]) <= 13
    assert max(sizes[-60:]) < 80_000


def test_a_pause_is_told_with_what_would_be_the_last_soft_tokens(babbler, talk):
    """Long before it is certain that it was the end, and for good if nothing more is said."""
    encoder, events = SpeechEncoder(babbler, CONFIG), []
    for begin in range(0, len(talk), 640):
        events += encoder.push(talk[begin : begin + 640].tobytes())
    hangover = CONFIG.gate.hangover - CONFIG.gate.postroll
    ends = [at for at, event in enumerate(events) if isinstance(event, SpeechEnded)]

    assert len(ends) == 3
    for at in ends:
        pause, end = events[at - 1 : at + 1]
        assert isinstance(pause, SpeechPaused)
        assert pause.time == end.time
        assert end.audio_time - pause.audio_time == pytest.approx(hangover, abs=0.1)


def test_speech_is_told_to_be_where_it_is_and_not_where_its_audio_begins(babbler, speech):
    """Audio from before and behind it belongs to an utterance, but nobody speaks there."""
    loud = np.flatnonzero(np.abs(speech) >= 0.05 * np.abs(speech).max())
    spoken_alone = np.pad(speech[loud[0] : loud[-1] + 1], (2 * 16_000, 2 * 16_000))
    room = np.random.default_rng(0).normal(0, 3e-4, len(spoken_alone))
    events = hear(babbler, [(spoken_alone + room).astype("<f4").tobytes()])
    start = next(event for event in events if isinstance(event, SpeechStarted))
    end = next(event for event in reversed(events) if isinstance(event, SpeechEnded))

    assert start.time + start.margin == pytest.approx(2, abs=0.15)
    assert end.time - end.margin == pytest.approx(len(room) / 16_000 - 2, abs=0.15)
    assert start.margin >= CONFIG.gate.preroll
    assert end.margin == CONFIG.gate.postroll
