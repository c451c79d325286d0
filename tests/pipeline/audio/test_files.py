import numpy as np
import pytest
import soundfile

from pipeline.audio.files import read_audio
from pipeline.errors import AudioError

LETTER = b"Dear Sir or Madam, " * 50


def tone(rate=16_000, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("tone.wav", "PCM_U8", 1e-2),
        ("tone.wav", "PCM_16", 1e-4),
        ("tone.wav", "PCM_24", 1e-6),
        ("tone.wav", "PCM_32", 1e-6),
        ("tone.wav", "FLOAT", 1e-6),
        ("tone.wav", "DOUBLE", 1e-6),
        ("tone.wav", "ULAW", 2e-2),
        ("tone.flac", "PCM_16", 1e-4),
        ("tone.flac", "PCM_24", 1e-6),
        ("tone.ogg", "VORBIS", 5e-2),
        ("tone.ogg", "OPUS", 5e-2),
        ("tone.mp3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_sample_formats(tmp_path, name, subtype, tolerance):
    """Every common sample format gives the samples that were written."""
    soundfile.write(tmp_path / name, tone(), 16_000, subtype=subtype)

    waveform = read_audio(tmp_path / name)

    assert waveform.dtype == np.float32
    assert len(waveform) == 16_000
    # Lossy codecs need some time to swing in.
    np.testing.assert_allclose(waveform[2000:-2000], tone()[2000:-2000], atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_sample_rates(tmp_path, rate):
    """Any rate becomes 16 kHz."""
    soundfile.write(tmp_path / "tone.wav", tone(rate), rate, subtype="FLOAT")

    waveform = read_audio(str(tmp_path / "tone.wav"))

    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[1000:-1000], tone()[1000:-1000], atol=1e-3)


def test_channels_are_averaged(tmp_path):
    """A recording on the left of two channels and another one on five of six."""
    soundfile.write(tmp_path / "left.wav", np.stack([tone(), 0 * tone()], 1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "six.wav", np.stack([tone()] * 5 + [0 * tone()], 1), 16_000, subtype="FLOAT")

    np.testing.assert_allclose(read_audio(tmp_path / "left.wav"), tone() / 2, atol=1e-6)
    np.testing.assert_allclose(read_audio(tmp_path / "six.wav"), tone() * 5 / 6, atol=1e-6)


def test_long_multi_channel_files_are_read_in_blocks(tmp_path):
    """A file that is longer than a block gives the same samples as one resampling of the whole."""
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal((200_000, 2))).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")

    np.testing.assert_allclose(read_audio(tmp_path / "long.wav"), samples.mean(1), atol=1e-7)


@pytest.mark.parametrize("kept", [60_000, 60_001])
def test_a_wav_that_was_cut_off_is_read_to_its_end(tmp_path, kept):
    """Where the header promises more than there is, what is there counts; so with an odd byte."""
    path = tmp_path / "cut.wav"
    soundfile.write(path, tone(seconds=3), 16_000, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:kept])

    waveform = read_audio(path)

    assert len(waveform) == (60_000 - 44) // 2
    np.testing.assert_allclose(waveform, tone(seconds=3)[: len(waveform)], atol=1e-4)


def test_a_wav_written_into_a_pipe_is_read(tmp_path):
    """Programs that cannot seek write 0xFFFFFFFF for the lengths that they do not know yet."""
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(), 16_000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))

    assert len(read_audio(path)) == 16_000


def written(path, data):
    path.write_bytes(data)
    return path


def damaged(path, keep):
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    return written(path, path.read_bytes()[:keep])


def with_value(path, value):
    samples = tone()
    samples[100] = value
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.wav", "there is no such file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: written(folder / "empty.wav", b""), "the file is empty"),
        (
            lambda folder: written(folder / "letter.wav", LETTER),
            "cannot be read as audio",
        ),
        (
            lambda folder: written(folder / "letter.mp3", LETTER),
            "cannot be read as audio",
        ),
        (lambda folder: written(folder / "letter.raw", LETTER), "raw samples"),
        (lambda folder: damaged(folder / "head.wav", 30), "cannot be read as audio"),
        (lambda folder: damaged(folder / "head-only.wav", 44), "holds no audio samples"),
        (lambda folder: damaged(folder / "cut.flac", 15_000), "cannot be read as audio"),
        (lambda folder: damaged(folder / "cut.ogg", 3_000), "cannot be read as audio"),
        (lambda folder: with_value(folder / "nan.wav", np.nan), "a float audio sample is nan"),
        (lambda folder: with_value(folder / "inf.wav", np.inf), "a float audio sample is inf"),
        (lambda folder: with_value(folder / "int.wav", 12_000.0), "a float audio sample is 12000"),
    ],
)
def test_what_is_not_audio_is_refused_in_one_sentence(tmp_path, make, message):
    """The error names the file and what is wrong with it, on one line."""
    path = make(tmp_path)

    with pytest.raises(AudioError) as caught:
        read_audio(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "bad_audio"


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    """A file without permission says so (as root every file can be read, so the refusal is made here)."""
    path = damaged(tmp_path / "secret.wav", 1000)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)

    with pytest.raises(AudioError, match="cannot be opened: Permission denied"):
        read_audio(path)
