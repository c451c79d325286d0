"""Compressed streams, cut anywhere, against FFmpeg and libsndfile on the whole file."""

from __future__ import annotations

import io
import threading
import time
from contextlib import suppress

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.codecs import SILENT_BYTES, CompressedDecoder
from pipeline.audio.pcm import mix_down
from pipeline.audio.resample import Resampler
from pipeline.errors import AudioError
from tests.conftest import ROOT


def sound(seconds=1.5, rate=48_000, channels=1, seed=0):
    """Something like speech: a gliding tone with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (150 + 300 * time) * time) * np.sin(2 * np.pi * 2 * time)
    return (0.4 * tone[:, None] + 0.05 * rng.standard_normal((len(time), channels))).astype(np.float32)


def compressed(container, samples, rate=48_000):
    """The samples as Opus in Ogg or WebM, the latter without lengths, as a browser records it."""
    file = io.BytesIO()
    options = {"live": "1", "cluster_time_limit": "200"} if container == "webm" else {}
    with av.open(file, "w", format=container, options=options) as out:
        layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
        stream = out.add_stream("libopus", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return file.getvalue()


def flac(samples, rate=16_000, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def decode(encoding, *pieces):
    decoder = CompressedDecoder(encoding)
    try:
        heard = [samples for piece in pieces for samples in decoder.push(piece)]
        return np.concatenate([*heard, *decoder.finish()])
    finally:
        decoder.close()


def whole(data):
    """What FFmpeg, given the whole file, makes of it, at 16 kHz."""
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    resampler = Resampler(rate)
    samples = mix_down(np.ascontiguousarray(np.concatenate(frames, axis=1).T))
    return np.concatenate([resampler.push(samples), resampler.flush()])


FILES = {
    "ogg": ("opus", compressed("ogg", sound())),
    "webm": ("opus", compressed("webm", sound())),
    "stereo": ("opus", compressed("webm", sound(channels=2))),
    "chromium": ("opus", (ROOT / "tests/data/mediarecorder.webm").read_bytes()),
    "flac": ("flac", flac(sound(3.0), 48_000)),
}


@pytest.mark.parametrize("name", ["ogg", "webm", "stereo", "chromium"])
def test_opus_is_what_ffmpeg_decodes(name):
    encoding, data = FILES[name]

    np.testing.assert_array_equal(decode(encoding, data), whole(data))


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(16_000, 1, "PCM_16"), (44_100, 2, "PCM_24")])
def test_flac_loses_nothing(rate, channels, subtype):
    samples = sound(0.7, rate, channels)
    data = flac(samples, rate, subtype)
    exact, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    resampler = Resampler(rate)
    expected = np.concatenate([resampler.push(mix_down(exact)), resampler.flush()])

    np.testing.assert_allclose(decode("flac", data), expected, atol=1e-6)


def test_opus_sounds_like_what_was_said():
    samples = sound()[:, 0]
    resampler = Resampler(48_000)
    expected = np.concatenate([resampler.push(samples), resampler.flush()])
    heard = decode(*FILES["webm"])

    assert abs(len(heard) - len(expected)) < 0.03 * 16_000
    n = min(len(heard), len(expected))
    assert np.corrcoef(heard[:n], expected[:n])[0, 1] > 0.95


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=60))
def test_bytes_may_be_cut_anywhere(name, cuts):
    encoding, data = FILES[name]
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut

    np.testing.assert_array_equal(decode(encoding, *pieces, data[start:]), decode(encoding, data))


@pytest.mark.parametrize(("name", "seconds"), [("ogg", 1.1), ("webm", 0.4), ("chromium", 0.4), ("flac", 1.1)])
def test_audio_comes_out_while_it_goes_in(name, seconds):
    """No more than so many seconds behind: what a page, a cluster, or FFmpeg's look-ahead of FLAC holds."""
    encoding, data = FILES[name]
    decoder = CompressedDecoder(encoding)
    total = len(decode(encoding, data))
    heard = 0
    for start in range(0, len(data), 100):
        heard += sum(map(len, decoder.push(data[start : start + 100])))
        assert heard / 16_000 >= total * start / len(data) / 16_000 - seconds
    decoder.close()


@pytest.mark.parametrize("encoding", ["opus", "flac"])
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400), magic=st.sampled_from([b"", b"OggS\0\2", b"\x1a\x45\xdf\xa3", b"fLaC"]))
def test_nonsense_is_an_error_or_silence(encoding, data, magic):
    with suppress(AudioError):
        assert np.isfinite(decode(encoding, magic + data)).all()


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=25, deadline=None)
@given(place=st.integers(0, 10**9), noise=st.binary(min_size=1, max_size=200))
def test_damage_is_an_error_or_is_heard(name, place, noise):
    encoding, data = FILES[name]
    place %= len(data)
    try:
        heard = decode(encoding, data[:place] + noise + data[place + len(noise) :])
    except AudioError:
        return
    assert np.isfinite(heard).all()


@pytest.mark.parametrize(
    ("encoding", "data", "says"),
    [
        ("opus", flac(sound(0.1)), "announced as Opus in Ogg or WebM, but begins with 66 4c 61 43"),
        ("flac", FILES["ogg"][1], "announced as FLAC"),
        ("opus", b"Og", "begins with 4f 67"),
        ("flac", b"fLaC" + bytes(40), "not FLAC"),
    ],
)
def test_what_is_wrong_is_told(encoding, data, says):
    with pytest.raises(AudioError, match=says):
        decode(encoding, data)


def test_another_codec_in_the_same_container_is_refused():
    file = io.BytesIO()
    soundfile.write(file, sound(0.5), 48_000, format="OGG", subtype="VORBIS")

    with pytest.raises(AudioError, match="vorbis, not Opus"):
        decode("opus", file.getvalue())


def test_a_stream_without_audio_is_given_up():
    """A block that says it has 200 MB is not collected to its end."""
    encoding, data = FILES["webm"]
    block = b"\xa3" + (1 << 56 | 200_000_000).to_bytes(8, "big")

    with pytest.raises(AudioError, match="no audio in"):
        decode(encoding, data, block, *[bytes(65_536)] * (SILENT_BYTES // 65_536))


def test_little_is_decoded_ahead():
    """A kilobyte of FLAC can be minutes of silence; they come one frame after the other."""
    data = flac(np.zeros((16_000 * 600, 1), np.float32))
    decoder = CompressedDecoder("flac")
    pieces = decoder.push(data)

    assert max(len(next(pieces)) for _ in range(50)) <= 8_192
    decoder.close()


def test_no_thread_is_left():
    decoders = [CompressedDecoder("opus") for _ in range(5)]
    for decoder in decoders:
        list(decoder.push(FILES["webm"][1][:3_000]))
    for decoder in decoders:
        decoder.close()

    deadline = time.monotonic() + 5
    while any(thread.name == "demuxer" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
