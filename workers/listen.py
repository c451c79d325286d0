"""``surtitle listen``: send speech to a server as it is spoken, show the captions that come back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import SAMPLE_RATE, AudioFormat, ContextConfig
from pipeline.errors import AudioError
from pipeline.glossary import Entry
from pipeline.wire import commands
from workers.captions import Captions
from workers.client import DEFAULT_URL, converse

FRAME_SAMPLES = SAMPLE_RATE // 10
"""Samples in one frame: 100 ms cost a third of the CPU of 20 ms, and are not felt."""

STDIN = Path("-")
"""The recording that is read from standard input, as it comes."""

KEY_VARIABLE = "SURTITLE_KEY"
"""Environment variable with the API key or token; an argument would be seen by everybody on the machine."""

READ_BYTES = 16_384
READ_AHEAD = 8
"""Pieces of standard input that wait to be sent, at most, and how long each may be."""


def listen(
    path: Path | None = None,
    *,
    microphone: bool = False,
    url: str = DEFAULT_URL,
    source: str = "es",
    targets: Sequence[str] = ("en",),
    audio: AudioFormat | None = None,
    context: ContextConfig | None = None,
    glossary: Sequence[Entry] = (),
    console: Console | None = None,
) -> None:
    """Send a recording, standard input or the microphone, and show what comes back until it ends.

    A recording is sent at real time; standard input as it comes, until it ends or SIGINT. On a terminal the
    captions are live; elsewhere every final line is printed once.

    Args:
        path: a recording; :data:`STDIN` for standard input.
        microphone: listen to the microphone instead, until SIGINT.
        url: the server's ``/v1/stream``.
        source: language that is spoken.
        targets: languages to translate into.
        audio: what comes from standard input; 16 kHz, 16 bit, mono by default.
        context: what the model is told before each utterance; nothing by default.
        glossary: terms as they are to be spelled and translated.
        console: where to show it; standard output by default.

    Raises:
        AudioError: the recording cannot be read, or there is no microphone.
        StreamError: the server cannot be reached, or ended the stream with an error.
    """
    if microphone:
        speech = _microphone()
    elif path == STDIN:
        speech = _standard_input()
    else:
        speech = _paced(to_s16le(read_audio(_required(path))))
    start = commands.Start(
        source=source,
        targets=tuple(targets),
        audio=audio or AudioFormat(),
        context=context or ContextConfig(),
        glossary=tuple(glossary),
    )
    asyncio.run(_listen(url, start, speech, Captions(console or Console(), source)))


async def _listen(url: str, start: commands.Start, speech: AsyncIterator[bytes], captions: Captions) -> None:
    with captions:
        async for event in converse(url, start, speech, key=os.environ.get(KEY_VARIABLE)):
            captions.show(event)


async def _paced(pcm: bytes) -> AsyncIterator[bytes]:
    """Cut PCM into frames, each at the time when its last sample would have been spoken."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    size = 2 * FRAME_SAMPLES
    for number, begin in enumerate(range(0, len(pcm), size), start=1):
        await asyncio.sleep(started + number * FRAME_SAMPLES / SAMPLE_RATE - loop.time())
        yield pcm[begin : begin + size]


def _required(path: Path | None) -> Path:
    if path is None:
        raise ValueError("either a path or the microphone is needed")
    return path


async def _standard_input() -> AsyncIterator[bytes]:
    """What comes from standard input, until it ends or SIGINT."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(READ_AHEAD)
    interrupted = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)

    def read() -> None:
        try:
            while True:
                piece = os.read(sys.stdin.fileno(), READ_BYTES)
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()
                if not piece:
                    return
        except RuntimeError:  # the event loop has been closed: nobody listens any more
            return

    # No thread of a pool: it would be waited for at the end, while it waits for input.
    threading.Thread(target=read, name="standard input", daemon=True).start()
    waiting = asyncio.create_task(interrupted.wait())
    try:
        while not interrupted.is_set():
            coming = asyncio.create_task(pieces.get())
            await asyncio.wait((coming, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            if not (piece := coming.result()):
                return
            yield piece
    finally:
        waiting.cancel()
        loop.remove_signal_handler(signal.SIGINT)


async def _microphone() -> AsyncIterator[bytes]:
    """Frames from the default microphone until SIGINT; sounddevice is an optional dependency."""
    try:
        import sounddevice  # type: ignore[import-not-found]  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise AudioError(
            f"the microphone needs the package sounddevice and PortAudio ({error}); install them with "
            "'pip install surtitle[microphone]' and your system's libportaudio2, or give a recording"
        ) from None
    loop = asyncio.get_running_loop()
    frames: asyncio.Queue[bytes] = asyncio.Queue()

    def heard(data: Any, _samples: int, _time: Any, _status: Any) -> None:
        loop.call_soon_threadsafe(frames.put_nowait, bytes(data))

    try:
        stream = sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE, channels=1, dtype="int16", blocksize=FRAME_SAMPLES, callback=heard
        )
    except sounddevice.PortAudioError as error:
        raise AudioError(f"no microphone can be opened: {error}") from None
    loop.add_signal_handler(signal.SIGINT, frames.put_nowait, b"")
    with stream:
        while frame := await frames.get():
            yield frame
