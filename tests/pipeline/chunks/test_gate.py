from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunks.gate import SpeechAudio, SpeechEnd, SpeechGate, SpeechPause, SpeechStart
from pipeline.config import GateConfig

SECOND = 16_000


@dataclass
class Utterance:
    start: float
    end: float
    samples: np.ndarray


def gather(items):
    """Utterances of a list of items, and that the items are in order, contiguous and whole."""
    utterances, start, pieces = [], None, []
    for item in items:
        match item:
            case SpeechStart(sample):
                assert start is None
                assert not utterances or sample >= round(utterances[-1].end * SECOND)
                start, pieces = sample, [np.empty(0, np.float32)]
            case SpeechAudio(at, samples):
                assert start is not None
                assert at == start + sum(map(len, pieces))
                assert len(samples)
                pieces.append(samples)
            case SpeechEnd(sample):
                joined = np.concatenate(pieces)
                assert sample == start + len(joined)
                utterances.append(Utterance(start / SECOND, sample / SECOND, joined))
                start = None
    assert start is None
    return utterances


def gate(samples, config=None, cuts=(1600,), gate=None):
    """What a gate makes of samples that come in pieces of the given lengths, over and over."""
    gate = gate or SpeechGate(config or GateConfig())
    items, at, turn = [], 0, 0
    while at < len(samples):
        items += gate.push(samples[at : at + cuts[turn % len(cuts)]].astype(np.float32))
        at += cuts[turn % len(cuts)]
        turn += 1
    return gather(items + gate.flush())


def noise(seconds, level, colour="white", seed=0):
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SECOND))
    if colour == "pink":
        spectrum = np.fft.rfft(samples)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)) / seconds, 20))
        samples = np.fft.irfft(spectrum, len(samples))
    return (samples * 10 ** (level / 20) / samples.std()).astype(np.float32)


def silence(seconds):
    return np.zeros(round(seconds * SECOND), np.float32)


def tones(seconds, *frequencies):
    time = np.arange(round(seconds * SECOND)) / SECOND
    return (0.1 * sum(np.sin(2 * np.pi * f * time + f) for f in frequencies)).astype(np.float32)


def chords(seconds, each=0.5, decay=3.0):
    """Struck triads, one after the other, that die away."""
    time = np.arange(round(each * SECOND)) / SECOND
    roots = 220 * 2 ** (np.array([0, 5, 7, 9, 4, 2]) / 12)
    struck = [
        sum(np.sin(2 * np.pi * root * step * n * time) / n for step in (1, 1.26, 1.498) for n in (1, 2, 3))
        for root in roots
    ]
    once = np.concatenate([0.05 * chord * np.exp(-decay * time) for chord in struck])
    return np.tile(once, round(seconds / each / len(roots)) + 1)[: round(seconds * SECOND)].astype(np.float32)


@pytest.mark.parametrize("peak", [0.5, 0.5 * 10 ** (-39 / 20)], ids=["loud", "peak at -45 dBFS"])
@pytest.mark.parametrize("room", [-200, -80], ids=["digital silence", "quiet room"])
def test_speech_is_one_utterance_with_its_soft_ends(spanish, peak, room):
    """An utterance starts a preroll before the first word and ends shortly after the last."""
    speech = np.concatenate([silence(2), spanish * (peak / 0.5), silence(2)])

    utterances = gate(speech + noise(len(speech) / SECOND, room, "pink"))

    assert len(utterances) == 1
    assert 2.23 - 0.5 < utterances[0].start < 2.23
    assert 5.05 < utterances[0].end < 5.10 + 0.6


def test_clipped_speech_is_found(spanish):
    """Speech that is 26 dB too loud for its converter is found whole."""
    speech = np.concatenate([silence(2), np.clip(spanish * 20, -1, 1), silence(2)])

    utterances = gate(speech + noise(len(speech) / SECOND, -60))

    assert utterances[0].start < 2.23
    assert utterances[-1].end > 5.10


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr", [20, 10, 5])
def test_speech_in_noise_is_found(spanish, english, snr, colour):
    """Of speech in noise nine tenths are found, and between the sentences the gate closes."""
    loud = 20 * np.log10(spanish[4_000:48_000].std())
    speech = np.concatenate([silence(2), spanish, silence(2), english, silence(2)])

    utterances = gate(speech + noise(len(speech) / SECOND, loud - snr, colour))

    inside = np.zeros(len(speech), bool)
    for utterance in utterances:
        inside[round(utterance.start * SECOND) : round(utterance.end * SECOND)] = True
    words = np.zeros(len(speech), bool)
    words[round(2.23 * SECOND) : round(5.1 * SECOND)] = True
    words[round(8.26 * SECOND) : round(10.84 * SECOND)] = True
    assert inside[words].mean() > 0.9
    assert not inside[round(6.5 * SECOND) : round(7.5 * SECOND)].any()


@pytest.mark.parametrize("into", [0.23, 0.8, 1.5])
def test_speech_that_is_there_at_once_is_kept_from_the_first_sample(spanish, into):
    """A stream may start in mid-sentence: nothing of it is lost."""
    speech = spanish[round(into * SECOND) :]

    utterances = gate(np.concatenate([speech + noise(len(speech) / SECOND, -65), noise(2, -65, seed=1)]))

    assert utterances[0].start == 0


STEADY = {
    "white noise at -20 dBFS": noise(20, -20),
    "pink noise": noise(20, -30, "pink"),
    "faint noise": noise(20, -60),
    "mains hum": tones(20, 50, 100, 150, 200, 250, 350, 450),
    "60 Hz hum": tones(20, 60, 120, 180, 240, 300),
    "tone": tones(20, 440),
    "high tone": tones(20, 3000),
    "chord": tones(20, 220, 277.2, 329.6, 440),
    "silence": silence(20),
    "offset": silence(20) + np.float32(0.3),
    "busy signal": tones(20, 425) * (np.arange(20 * SECOND) % SECOND < SECOND // 2),
    "alarm": tones(20, 900) * (np.arange(20 * SECOND) % 4000 < 3000),
}


@pytest.mark.parametrize("name", STEADY)
def test_steady_sounds_are_no_utterance(name):
    """Noise, hum, tones and beeps open nothing when a stream starts in them."""
    assert gate(STEADY[name]) == []


@pytest.mark.parametrize("name", STEADY)
def test_steady_sounds_that_set_in_end_within_a_moment(name):
    """A machine that is switched on in silence is at most one short utterance."""
    utterances = gate(np.concatenate([noise(3, -75), STEADY[name]]))

    assert len(utterances) <= 1
    assert sum(utterance.end - utterance.start for utterance in utterances) < 3


@pytest.mark.parametrize("each", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0, 6.0])
def test_chords_are_no_utterances_for_long(each, decay):
    """Of struck chords less than an eighth gets through."""
    utterances = gate(chords(30, each, decay))

    assert sum(utterance.end - utterance.start for utterance in utterances) < 30 / 8


def test_noise_that_slowly_grows_is_no_utterance():
    """The floor follows noise that becomes louder by 1 dB a second, for half a minute."""
    growth = 10 ** (np.linspace(0, 30, 30 * SECOND) / 20)

    assert gate((noise(30, -50, "pink") * growth).astype(np.float32)) == []


def test_a_click_is_no_utterance():
    """What has less speech in it than min_speech is not announced."""
    quiet = noise(4, -70)
    quiet[2 * SECOND : 2 * SECOND + 800] += noise(0.05, -10)

    assert gate(quiet) == []


def test_speech_shorter_than_min_speech_is_no_utterance(spanish):
    word = np.concatenate([noise(2, -70), spanish[8_500:13_000], noise(2, -70, seed=1)])

    assert gate(word, GateConfig(min_speech=0.6)) == []
    assert len(gate(np.concatenate([word, spanish, noise(2, -70)]), GateConfig(min_speech=0.6))) > 0


def test_a_short_word_is_an_utterance(spanish):
    """A single syllable among silence is found."""
    utterances = gate(np.concatenate([noise(2, -70), spanish[8_500:13_000], noise(2, -70, seed=1)]))

    assert len(utterances) == 1
    assert utterances[0].start < 2.05
    assert utterances[0].end > 2.2


@pytest.mark.parametrize(("pause", "count"), [(0.2, 1), (1.5, 2)])
def test_a_pause_shorter_than_the_hangover_is_bridged(spanish, pause, count):
    """Two sentences are one utterance or two, depending on the silence between them."""
    sentence = spanish[3_200:48_000]
    speech = np.concatenate([silence(1.5), sentence, silence(pause), sentence, silence(2)])

    assert len(gate(speech + noise(len(speech) / SECOND, -75))) == count


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("louder", [20, 30])
@pytest.mark.parametrize("after", [-0.5, 0.0, 0.3])
def test_a_room_that_becomes_louder_does_not_bridge_the_pause(spanish, english, colour, louder, after):
    """Behind somebody who speaks low in a quiet one: until the floor has followed, the noise is far above it.

    It sets in so many seconds after the last word.
    """
    low, higher = spanish[3_200:49_600] * 0.02, english * 10 ** ((louder - 20) / 20)
    speech = np.concatenate([silence(3), low, silence(1), higher, silence(2)])
    ended = 3 + len(low) / SECOND
    begun = ended + 1 + 0.26
    changed = round((ended + after) * SECOND)
    room = noise(len(speech) / SECOND, -80, colour)
    room[changed:] = noise((len(speech) - changed) / SECOND, louder - 80, colour, seed=1)
    stream = SpeechGate(GateConfig())
    items = [*stream.push(speech + room), *stream.flush()]
    first, second = gather(items)
    spoken = next(item.spoken / SECOND for item in items if isinstance(item, SpeechEnd))

    assert ended - 0.3 < spoken < ended + 0.4
    assert ended < first.end < begun
    assert begun - 0.6 < second.start < begun


def test_utterances_do_not_overlap(spanish):
    """A preroll that would reach into the utterance before is shortened."""
    config = GateConfig(preroll=2.0, postroll=0.4, hangover=0.4)
    speech = np.concatenate([silence(3), *[np.concatenate([spanish[3_200:48_000], silence(0.8)])] * 3])

    utterances = gate(speech + noise(len(speech) / SECOND, -75), config)

    assert len(utterances) == 3
    assert [u.start for u in utterances[1:]] == [u.end for u in utterances[:-1]]


def test_the_samples_are_those_of_the_stream(spanish):
    """An utterance's audio is the input between its start and its end."""
    speech = np.concatenate([silence(2), spanish, silence(2), spanish, silence(2)])

    for utterance in gate(speech):
        expected = speech[round(utterance.start * SECOND) : round(utterance.end * SECOND)]
        np.testing.assert_array_equal(utterance.samples, expected)


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 80_000) | st.integers(0, 500), min_size=1, max_size=6).filter(
        lambda cuts: sum(cuts) > 150 * len(cuts)
    ),
)
def test_the_cuts_do_not_matter(spanish, english, cuts):
    """However the input is cut, the utterances are the same to the sample."""
    speech = np.concatenate([spanish, silence(1), english, english, spanish[:30_000]])

    expected = gate(speech, cuts=[len(speech)])
    utterances = gate(speech, cuts=cuts)

    assert [(u.start, u.end) for u in utterances] == [(u.start, u.end) for u in expected]
    for utterance, other in zip(utterances, expected, strict=True):
        np.testing.assert_array_equal(utterance.samples, other.samples)


def test_endless_speech_is_one_utterance_handed_out_as_it_comes(spanish):
    """Where it can be parted is not for the gate to know; it holds no more of it than of any other."""
    speech = np.concatenate([silence(1.5), np.tile(spanish[3_200:48_000], 25), silence(2)])
    speech += noise(len(speech) / SECOND, -70)
    stream, late = SpeechGate(GateConfig()), []
    items = []
    for begin in range(0, len(speech), SECOND // 2):
        items += stream.push(speech[begin : begin + SECOND // 2])
        if audio := [item for item in items if isinstance(item, SpeechAudio)]:
            late.append(
                min(begin + SECOND // 2, len(speech) - 2 * SECOND) - audio[-1].start - len(audio[-1].samples)
            )

    edges = [type(item) for item in items if not isinstance(item, SpeechAudio | SpeechPause)]
    assert edges == [SpeechStart, SpeechEnd]
    assert items[-1].sample - items[0].sample > 60 * SECOND
    assert max(late) < SECOND


def test_flush_ends_an_utterance_and_the_stream_goes_on(spanish):
    """A flush in mid-sentence hands out what there is; the rest is an utterance right after it."""
    speech = np.concatenate([noise(2, -70), spanish, noise(2, -70, seed=1)])
    middle = 2 * SECOND + 25_003
    stream = SpeechGate(GateConfig())

    first = gate(speech[:middle], gate=stream)
    second = gate(speech[middle:], gate=stream)

    assert first[-1].end == middle / SECOND
    assert second[0].start == first[-1].end
    assert second[-1].end > 5.05
    np.testing.assert_array_equal(second[0].samples, speech[middle : round(second[0].end * SECOND)])


def test_flush_of_nothing_is_nothing():
    """A gate that heard no speech has nothing to hand out."""
    stream = SpeechGate(GateConfig())
    stream.push(silence(1.01))

    assert stream.flush() == []
    assert stream.flush() == []


def test_audio_is_handed_out_while_it_is_spoken(spanish):
    """In running speech the gate is at most a frame behind; the last word does not wait for the hangover."""
    stream = SpeechGate(GateConfig())
    speech = np.concatenate([noise(2, -70), spanish, noise(2, -70, seed=1)])
    handed, lags = 0, []
    for at in range(0, len(speech), 320):
        for item in stream.push(speech[at : at + 320]):
            if isinstance(item, SpeechAudio):
                handed = item.start + len(item.samples)
        if 2.6 * SECOND < at < 4.4 * SECOND:
            lags.append(at + 320 - handed)

    assert max(lags) < 480 + 320


def test_a_pause_is_told_at_once_and_where_the_utterance_will_end(spanish):
    """When all that was said has been handed out; one that ends in more speech is told and was none."""
    stream = SpeechGate(GateConfig())
    speech = [silence(1.5), spanish[3_200:48_000], silence(0.45), spanish[3_200:48_000], silence(1)]
    speech = np.concatenate(speech) + noise(sum(map(len, speech)) / SECOND, -70)
    items, when = [], []
    for at in range(0, len(speech), 320):
        new = stream.push(speech[at : at + 320])
        items += new
        when += [at + 320 for item in new if isinstance(item, SpeechPause)]
    pauses = [at for at, item in enumerate(items) if isinstance(item, SpeechPause)]

    assert [type(item) for item in items].count(SpeechEnd) == 1
    assert len(pauses) >= 2
    for at, heard in zip(pauses, when, strict=True):
        before, pause = items[at - 1 : at + 1]
        assert pause.sample == before.start + len(before.samples)
        assert heard - pause.sample < 480 + 320
    assert items[pauses[-1] + 1].sample == items[pauses[-1]].sample


def notes(seconds, seed=0):
    """Plucked strings in a room: the detector takes them for speech, a listener does not."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(round(seconds * SECOND))
    for at in range(0, len(wave), SECOND // 5):
        period = int(rng.integers(30, 160))
        string, plucked = rng.normal(size=period), []
        while len(plucked) < SECOND // 2:
            plucked.extend(string)
            string = 0.497 * (string + np.roll(string, 1))
        wave[at : at + len(plucked)] += plucked[: len(wave) - at]
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32) + noise(seconds, -70, seed=seed)


def test_music_is_no_utterance():
    """Whatever the detector takes it for: nobody sings."""
    assert gate(notes(20)) == []


def test_music_behind_speech_ends_the_utterance_and_speech_behind_music_is_whole(spanish):
    """Without a pause between them; of the music some seconds are let through."""
    words = spanish[3_200:48_000]
    played = notes(12)
    utterances = gate(np.concatenate([noise(2, -70), words, played, words, noise(2, -70)]))
    second = 2 + len(words) / SECOND + 12

    assert utterances[0].end < 2 + len(words) / SECOND + 5
    assert second - 2.0 < utterances[-1].start < second + 0.1
    assert utterances[-1].end > second + len(words) / SECOND - 0.3


def test_silent_until_is_what_no_utterance_will_need(spanish):
    """No later item is before it, it never goes back, and in silence it is close behind the input."""
    stream = SpeechGate(GateConfig())
    speech = np.concatenate([noise(3, -70), spanish, noise(3, -70, seed=1), spanish, noise(3, -70, seed=2)])
    promised = 0
    open_utterance = False
    for at in range(0, len(speech), 320):
        for item in stream.push(speech[at : at + 320]):
            if isinstance(item, SpeechStart):
                assert item.sample >= promised
            open_utterance = not isinstance(item, SpeechEnd)
        assert promised <= stream.silent_until <= at + 320
        promised = stream.silent_until
        if at > SECOND and not open_utterance:
            assert promised >= at + 320 - (0.3 + 1.5) * SECOND
    assert promised >= len(speech) - 0.35 * SECOND


def test_memory_is_bounded_in_silence_and_in_speech(spanish):
    """Neither minutes of noise nor endless speech fill the gate's buffer."""
    stream = SpeechGate(GateConfig())
    for minute in range(5):
        for _ in range(60):
            stream.push(noise(1, -40, seed=minute))
            assert len(stream._buffer) <= SECOND
    for at in range(0, 60 * SECOND, 1600):
        stream.push(np.roll(spanish[3_200:48_000], -at)[:1600])
        assert len(stream._buffer) < SECOND


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aggressiveness", 4),
        ("onset", -0.1),
        ("hangover", 0.0),
        ("preroll", float("nan")),
        ("postroll", float("inf")),
        ("release_db", 0.0),
        ("snr_db", 1.0),
    ],
)
def test_config_outside_its_range_is_refused(name, value):
    """The error names the option."""
    with pytest.raises(ValueError, match=f"^{name} must be"):
        GateConfig(**{name: value})
