import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.pcm import PcmDecoder
from pipeline.config import AudioFormat
from pipeline.errors import AudioError


def decode(data, **audio_format):
    return PcmDecoder(AudioFormat(**audio_format)).push(data)


def test_s16le():
    """16-bit samples are divided by 32768."""
    samples = decode(np.array([0, 1, -32768, 32767], "<i2").tobytes())

    np.testing.assert_array_equal(samples, np.float32([0, 1 / 32768, -1, 32767 / 32768]))
    assert samples.dtype == np.float32


def test_f32le():
    """Float samples are taken as they are."""
    samples = np.array([0, 0.5, -1.5], "<f4")

    np.testing.assert_array_equal(decode(samples.tobytes(), encoding="pcm_f32le"), samples)


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_decodes_as_libsndfile_does(encoding, subtype):
    """All 256 codes have the values that libsndfile gives them."""
    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes), dtype="float32", format="RAW", subtype=subtype, samplerate=8000, channels=1
    )

    np.testing.assert_allclose(decode(codes, encoding=encoding), expected, atol=1e-7)


def test_channels_are_averaged():
    """A frame's channels, interleaved in the stream, become their mean."""
    frames = np.array([[1000, 3000], [-32768, 32767]], "<i2")

    np.testing.assert_allclose(decode(frames.tobytes(), channels=2), [2000 / 32768, -0.5 / 32768])


@given(
    encoding=st.sampled_from(["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]),
    channels=st.integers(1, 8),
    frames=st.integers(0, 40),
    surplus=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 20), max_size=200),
)
def test_bytes_may_be_cut_anywhere(encoding, channels, frames, surplus, cuts):
    """Pieces cut in mid-sample or mid-frame give the samples of the whole; an incomplete frame waits."""
    audio_format = AudioFormat(encoding=encoding, channels=channels)
    size = audio_format.bytes_per_frame
    values = np.random.default_rng(0).uniform(-1, 1, frames * channels).astype("<f4")
    data = values.tobytes()[: frames * size] + bytes(surplus % size)
    decoder = PcmDecoder(audio_format)
    pieces, start = [], 0
    for cut in [*cuts, len(data)]:
        pieces.append(decoder.push(data[start : start + cut]))
        start += cut

    joined = np.concatenate(pieces)

    assert len(joined) == frames
    np.testing.assert_array_equal(joined, PcmDecoder(audio_format).push(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 20_000.0])
def test_a_float_that_is_no_sample_is_refused(value):
    """NaN would poison everything after it; 20,000 is a 16-bit sample sent as a float."""
    with pytest.raises(AudioError, match=r"samples must be finite and within \[-1, 1\]"):
        decode(np.array([0, value], "<f4").tobytes(), encoding="pcm_f32le")
