"""Compressed audio to 16 kHz samples, for a stream that may be cut anywhere.

FFmpeg's demuxers ask for bytes when they want them, while a stream's bytes come when they come. So the
demuxer of each stream runs in a thread of its own, which sleeps while there is nothing to read. The thread
and its caller take turns: what comes out depends on the bytes alone, and nothing is decoded ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.audio.pcm import mix_down
from pipeline.audio.resample import Resampler
from pipeline.errors import AudioError

MAGIC_BYTES = 4

CONTAINERS = {
    ("opus", b"OggS"): "ogg",
    ("opus", b"\x1a\x45\xdf\xa3"): "matroska",
    ("flac", b"fLaC"): "flac",
}
"""FFmpeg's name of the container, by encoding and the bytes that it begins with."""

ACCEPTED = {"opus": "Opus in Ogg or WebM", "flac": "FLAC"}

MIN_RATE, MAX_RATE = 8_000, 192_000

SILENT_BYTES = 1024 * 1024
"""Bytes without any audio in them after which the stream is given up: a demuxer keeps what it collects."""

# Without these the demuxer looks seconds ahead before it tells of the first packet.
_OPTIONS = {"probesize": "32", "analyzeduration": "0"}

Samples = NDArray[np.float32]


class CompressedDecoder:
    """Decodes Opus in Ogg or WebM, as browsers record it, or FLAC.

    Call :meth:`close` when done with it: there is a thread to be ended.

    Args:
        encoding: ``opus`` or ``flac``. Sample rate and channels are those that the stream itself names.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._begin = b""
        self._demuxer: _Demuxer | None = None
        # The resampler for the rate of the last frame.
        self._rate = 0
        self._resampler: Resampler | None = None
        self._silent = 0
        self._closed = False

    def push(self, data: bytes) -> Iterator[Samples]:
        """Take bytes, any number of them, and decode what became complete.

        Yields:
            Float32 ``[samples]`` at 16 kHz, the mean of the channels, in pieces of a codec's frame. Take
            them to the last.

        Raises:
            AudioError: the bytes are not what was announced.
        """
        self._silent += len(data)
        if self._demuxer is None:
            data = self._begin = self._begin + data
            if len(data) < MAGIC_BYTES:
                return
            self._demuxer = self._open(data[:MAGIC_BYTES])
            self._begin = b""
            if self._closed:  # meanwhile, from another thread
                self._demuxer.close()
        self._demuxer.write(data)
        yield from self._decoded(self._demuxer)
        if self._silent > SILENT_BYTES:
            raise AudioError(f"there was no audio in {self._silent} bytes of {ACCEPTED[self._encoding]}")

    def flush(self) -> Samples:
        """The rest of what was decoded, float32 ``[samples]``; the stream may go on."""
        return np.empty(0, np.float32) if self._resampler is None else self._resampler.flush()

    def finish(self) -> Iterator[Samples]:
        """End the stream; yields what was held back.

        Raises:
            AudioError: there was never any audio in it.
        """
        if self._demuxer is not None:
            self._demuxer.end()
            yield from self._decoded(self._demuxer)
        elif self._begin:
            raise self._refused(self._begin)
        yield self.flush()

    def close(self) -> None:
        """Forget the stream; returns at once, also while another thread decodes."""
        self._closed = True
        if self._demuxer is not None:
            self._demuxer.close()

    def _open(self, magic: bytes) -> _Demuxer:
        container = CONTAINERS.get((self._encoding, magic))
        if container is None:
            raise self._refused(magic)
        return _Demuxer(container, self._encoding)

    def _refused(self, begin: bytes) -> AudioError:
        return AudioError(
            f"the audio was announced as {ACCEPTED[self._encoding]}, but begins with {begin.hex(' ')}"
        )

    def _decoded(self, demuxer: _Demuxer) -> Iterator[Samples]:
        try:
            while (frame := demuxer.next_frame()) is not None:
                self._silent = 0
                yield from self._resampled(frame)
        except av.FFmpegError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise AudioError(f"the audio is not {ACCEPTED[self._encoding]} ({reason})") from None

    def _resampled(self, frame: av.AudioFrame) -> Iterator[Samples]:
        if frame.sample_rate != self._rate:
            if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
                raise AudioError(
                    f"the audio has {frame.sample_rate} samples per second; "
                    f"accepted are {MIN_RATE} to {MAX_RATE}"
                )
            yield self.flush()
            self._rate, self._resampler = frame.sample_rate, Resampler(frame.sample_rate)
        assert self._resampler is not None
        yield self._resampler.push(_samples(frame))


class _Demuxer:
    """FFmpeg on one stream, in a thread.

    Exactly one side is at work: the thread while ``_running``, the caller while not.
    """

    def __init__(self, container: str, codec: str) -> None:
        self._container = container
        self._codec = codec
        self._turn = threading.Condition()
        self._running = False
        self._closed = False
        # Bytes that were not read yet; whether there will be no more.
        self._unread = bytearray()
        self._ended = False
        # What the thread leaves when it gives up its turn: a frame; or, when it wants bytes or is done, none.
        self._frame: av.AudioFrame | None = None
        self._error: BaseException | None = None
        self._finished = False
        threading.Thread(target=self._run, name="demuxer", daemon=True).start()

    def write(self, data: bytes) -> None:
        self._unread += data

    def end(self) -> None:
        self._ended = True

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def next_frame(self) -> av.AudioFrame | None:
        """Let the thread run until it has a frame; None when it can go on only with more bytes."""
        with self._turn:
            if not self._finished and (self._unread or self._ended or self._frame is not None):
                self._frame = None
                self._running = True
                self._turn.notify_all()
                self._turn.wait_for(lambda: not self._running or self._closed)
            if self._error is not None:
                raise self._error
            return self._frame

    def read(self, size: int) -> bytes:
        """Called by FFmpeg: up to ``size`` bytes, none at the end."""
        while not self._unread and not self._ended and not self._closed:
            self._give_turn(None)
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return b"" if self._closed else data

    def _run(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._running or self._closed)
        try:
            if not self._closed:
                self._decode()
        except Exception as error:
            self._error = error
        with self._turn:
            self._finished, self._frame, self._running = True, None, False
            self._turn.notify_all()

    def _decode(self) -> None:
        with av.open(
            self, "r", format=self._container, options=_OPTIONS, metadata_errors="ignore"
        ) as container:
            if not container.streams.audio:
                raise AudioError("there is no audio in it")
            stream = container.streams.audio[0]
            # A codec that FFmpeg does not know has no context, whatever the types say.
            name = getattr(stream.codec_context, "name", "of an unknown codec")
            if name not in (self._codec, f"lib{self._codec}"):
                raise AudioError(f"the audio is {name}, not {ACCEPTED[self._codec]}")
            for frame in container.decode(stream):
                self._give_turn(frame)
                if self._closed:
                    return

    def _give_turn(self, frame: av.AudioFrame | None) -> None:
        with self._turn:
            self._frame, self._running = frame, False
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._running or self._closed)


def _samples(frame: av.AudioFrame) -> Samples:
    """A frame's samples, float32 ``[samples]``, the mean of its channels, full scale 1."""
    data: NDArray[Any] = frame.to_ndarray()
    channels = frame.layout.nb_channels
    interleaved = data.T if frame.format.is_planar else data.reshape(-1, channels)
    if interleaved.dtype.kind == "i":
        full_scale = np.float32(2.0 ** (8 * interleaved.dtype.itemsize - 1))
        interleaved = interleaved.astype(np.float32) / full_scale
    return mix_down(np.ascontiguousarray(interleaved, dtype=np.float32))
