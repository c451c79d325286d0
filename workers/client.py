"""``surtitle listen``: send speech to a server as it is spoken, show the captions that come back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from pipeline.audio.files import read_audio
from pipeline.config import SAMPLE_RATE
from pipeline.errors import AudioError, SurtitleError
from pipeline.wire.protocol import SUBPROTOCOL
from workers.captions import Captions
from workers.protocols import StreamError

DEFAULT_URL = "ws://127.0.0.1:8765/v1/stream"

FRAME_SAMPLES = SAMPLE_RATE // 10
"""Samples in one frame: 100 ms cost a third of the CPU of 20 ms, and are not felt."""

Message = dict[str, Any]


def listen(
    path: Path | None = None,
    *,
    microphone: bool = False,
    url: str = DEFAULT_URL,
    source: str = "es",
    targets: Sequence[str] = ("en",),
    console: Console | None = None,
) -> None:
    """Send a recording or the microphone at real time and show what comes back until it ends.

    On a terminal the captions are live; elsewhere every final line is printed once.

    Args:
        path: a recording.
        microphone: listen to the microphone instead, until SIGINT.
        url: the server's ``/v1/stream``.
        source: language that is spoken.
        targets: languages to translate into.
        console: where to show it; standard output by default.

    Raises:
        AudioError: the recording cannot be read, or there is no microphone.
        StreamError: the server cannot be reached, or ended the stream with an error.
    """
    audio = _microphone() if microphone else _paced(_pcm(read_audio(_required(path))))
    start = {"type": "start", "source": source, "targets": list(targets)}
    asyncio.run(_listen(url, start, audio, Captions(console or Console(), source)))


async def converse(url: str, start: Message, audio: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    """Hold one conversation of protocol version 1; yields the server's events to the last.

    Args:
        url: the server's ``/v1/stream``.
        start: the ``start`` message.
        audio: frames to send; pacing is theirs. After the last, ``stop`` is sent.

    Raises:
        StreamError: the server cannot be reached, or the connection broke before ``done``.
    """
    try:
        connection = await connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_timeout=None,  # a server that is behind reads our pongs late
        )
    except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
        raise StreamError(f"no Surtitle server answers at {url} ({error})", code="unreachable") from None
    async with connection:
        await connection.send(json.dumps(start))
        sender = asyncio.create_task(_send(connection, audio))
        last: Message = {}
        why = "it was closed"
        try:
            async for message in connection:
                last = json.loads(message)
                yield last
        except ConnectionClosed as error:
            why = str(error)
        finally:
            sender.cancel()
            (sent,) = await asyncio.gather(sender, return_exceptions=True)
    if isinstance(sent, SurtitleError):
        raise sent
    if last.get("type") != "done" and not last.get("fatal"):
        raise StreamError(f"the connection to {url} ended before the stream ({why})", code="connection_lost")


async def _listen(url: str, start: Message, audio: AsyncIterator[bytes], captions: Captions) -> None:
    with captions:
        async for event in converse(url, start, audio):
            if event["type"] == "error" and event["fatal"]:
                raise StreamError(event["message"], code=event["code"])
            captions.show(event)


async def _send(connection: ClientConnection, audio: AsyncIterator[bytes]) -> None:
    try:
        async for frame in audio:
            await connection.send(frame)
        await connection.send('{"type":"stop"}')
    except SurtitleError:
        connection.transport.close()  # ends the receiving side, too
        raise


async def _paced(pcm: bytes) -> AsyncIterator[bytes]:
    """Cut PCM into frames, each at the time when its last sample would have been spoken."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    size = 2 * FRAME_SAMPLES
    for number, begin in enumerate(range(0, len(pcm), size), start=1):
        await asyncio.sleep(started + number * FRAME_SAMPLES / SAMPLE_RATE - loop.time())
        yield pcm[begin : begin + size]


def _pcm(waveform: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    # Full scale is 32,768, so that 16-bit recordings arrive as they are.
    pcm: bytes = np.clip(np.rint(waveform * 32_768), -32_768, 32_767).astype("<i2").tobytes()
    return pcm


def _required(path: Path | None) -> Path:
    if path is None:
        raise ValueError("either a path or the microphone is needed")
    return path


async def _microphone() -> AsyncIterator[bytes]:
    """Frames from the default microphone until SIGINT; sounddevice is an optional dependency."""
    try:
        import sounddevice  # type: ignore[import-not-found]  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise AudioError(
            f"the microphone needs the package sounddevice and PortAudio ({error}); "
            "install them with 'pip install sounddevice', or give a recording"
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
