"""Bytes of nobody's making for everything that reads what strangers send.

Each target takes any bytes and ends quietly, or with the error that is documented for what cannot be read;
whatever else comes out of it is a fault. atheris (``pip install 'surtitle[fuzz]'``, Linux) looks for such
bytes, led by which lines they reach, until it is told to stop; what stands behind the target is libFuzzer's::

    python -m benchmarks.fuzz codecs -max_total_time=300
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

# Python's code is led by the lines that it reaches if it is instrumented as it is imported.
if __name__ == "__main__":
    import atheris

    _instrumented = atheris.instrument_imports(include=["pipeline.wire", "pipeline.audio", "workers"])
else:
    _instrumented = contextlib.nullcontext()

with _instrumented:
    from websockets.datastructures import Headers
    from websockets.exceptions import InvalidHeader

    from pipeline.audio.codecs import CompressedDecoder
    from pipeline.audio.files import read_audio
    from pipeline.audio.pcm import PcmDecoder
    from pipeline.config import ENCODINGS, AudioFormat
    from pipeline.errors import AudioError, ProtocolError
    from pipeline.wire.protocol import ServerProtocol
    from workers.access.guard import Guard
    from workers.access.identity import AccessError
    from workers.access.keys import KeyRing
    from workers.dialects.routes import dialect_at

EXAMPLES = Path(__file__).parents[1] / "tests" / "data"
"""Recordings to begin with, of every kind that is read."""

COMPRESSED = tuple(name for name in ENCODINGS if AudioFormat(name).compressed)
PCM = tuple(name for name in ENCODINGS if not AudioFormat(name).compressed)

DIALECTS = (
    "/v1/realtime?intent=transcription",
    "/v1/realtime/translations?model=any",
    "/v1/vosk/es?to=en",
    "/v1/simulstream",
)

MOST_MESSAGES = 64


def commands(data: bytes) -> None:
    """Messages of the protocol, one behind the other."""
    _converse(ServerProtocol().receive, data)


def dialects(data: bytes) -> None:
    """Messages of the other protocols; the first byte chooses one."""
    dialect = dialect_at(DIALECTS[_first(data) % len(DIALECTS)], {})
    if dialect is not None:
        _converse(dialect.receive, data[1:])


def files(data: bytes) -> None:
    """A recording."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(AudioError):
            read_audio(file.name)


def codecs(data: bytes) -> None:
    """Compressed audio that comes in pieces; the first byte chooses the codec and the sizes."""
    decoder = CompressedDecoder(COMPRESSED[_first(data) % len(COMPRESSED)])
    try:
        with contextlib.suppress(AudioError):
            for piece in _pieces(data[1:]):
                for _ in decoder.push(piece):
                    pass
            for _ in decoder.finish():
                pass
    finally:
        decoder.close()


def pcm(data: bytes) -> None:
    """Samples in any encoding, cut anywhere."""
    with contextlib.suppress(AudioError):
        decoder = PcmDecoder(AudioFormat(PCM[_first(data) % len(PCM)]))
        for piece in _pieces(data[1:]):
            decoder.push(piece)


def access(data: bytes) -> None:
    """A request: its address, and a header a line."""
    target, *lines = data.decode("latin-1").split("\n")
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(":")
        try:
            headers[name] = value
        except InvalidHeader:  # is refused before anybody of ours sees it
            return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write('{"keys": []}')
        file.flush()
        guard = Guard(keys=KeyRing(Path(file.name)), proxies=["127.0.0.0/8"])
        for upgrade in (True, False):
            with contextlib.suppress(AccessError):
                asyncio.run(guard.admit("127.0.0.1", target, headers, upgrade=upgrade))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (commands, dialects, files, codecs, pcm, access)
}


def seeds(name: str) -> list[bytes]:
    """What a target's bytes look like when nothing is wrong with them."""
    recordings = [path.read_bytes() for path in sorted(EXAMPLES.iterdir()) if path.suffix in _SUFFIXES]
    match name:
        case "commands" | "dialects":
            return [b"\x00" + message for message in _MESSAGES]
        case "files":
            return recordings
        case "codecs":
            return [
                bytes([at]) + recording[:65_536] for recording in recordings for at in range(len(COMPRESSED))
            ]
        case "access":
            return [
                b"/v1/stream?ticket=x\nAuthorization: Bearer surtitle_0_0\nX-Forwarded-For: 10.0.0.1, ::1"
            ]
    return [struct.pack("<B4f", at, 0.5, -0.5, 1, 0) for at in range(len(PCM))]


_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".webm", ".mp3")

_MESSAGES = (
    b'{"type": "start", "source": "es", "targets": ["en"], "audio": {"encoding": "opus"}}\nab',
    b'{"type": "start", "resume": {"stream_id": "x", "token": "y", "after_seq": 3}}\n{"type": "flush"}',
    b'{"type": "start"}\n{"type": "update", "targets": ["fr"]}\n{"type": "mark"}\n{"type": "stop"}',
    b'{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm"}}}}}',
    b'{"type": "input_audio_buffer.append", "audio": "AAAA"}\n{"type": "input_audio_buffer.commit"}',
    b'{"config": {"sample_rate": 8000}}\n{"eof": 1}',
)


def _converse(receive: Callable[[str | bytes], object], data: bytes) -> None:
    """A message a line: text as far as it is UTF-8, otherwise audio. A fatal error ends the connection."""
    for line in data.split(b"\n")[:MOST_MESSAGES]:
        try:
            message: str | bytes = line.decode()
        except UnicodeDecodeError:
            message = line
        try:
            receive(message)
        except ProtocolError as error:
            if error.fatal:
                return


def _pieces(data: bytes) -> Iterator[bytes]:
    """The same bytes in pieces whose sizes depend on them."""
    sizes = cycle((1 + _first(data), 4_096, 7))
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def _first(data: bytes) -> int:
    return data[0] if data else 0


def main() -> None:
    """Look for bytes that break a target, until libFuzzer ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    options, libfuzzer = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(options.target)):
            Path(folder, str(number)).write_bytes(seed)
        limits = ["-timeout=20", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *limits, *libfuzzer, folder], TARGETS[options.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
