"""The command sends at real time, or what comes, and shows what comes back."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console

from pipeline.config import ContextConfig
from pipeline.errors import AudioError
from tests.workers.conftest import running
from tests.workers.doubles import SpellingDecoder, loaded
from workers.decoder import DecoderWorker
from workers.listen import _microphone, listen
from workers.protocols import StreamError

SURTITLE = (sys.executable, "-m", "pipeline", "listen", "-", "--from", "es", "--to", "en")


@pytest.fixture(name="recording")
def _recording(tmp_path):
    """A recording whose 16-bit samples spell a text, half a second long."""
    path = tmp_path / "talk.wav"
    text = b"hola mundo" + b" " * 15_980 + b"adios...  "
    soundfile.write(path, np.frombuffer(text, "<i2"), 16_000, subtype="PCM_16")
    return path


async def test_listening_takes_as_long_as_the_recording_and_prints_finals(server, recording):
    output = io.StringIO()
    started = time.monotonic()

    await asyncio.to_thread(listen, recording, url=server.url, console=Console(file=output, width=200))

    assert time.monotonic() - started >= 0.5
    text = output.getvalue()
    assert "es  hola mundo" in text
    assert "en  en:HOLA MUNDO" in text


async def test_a_refused_start_is_an_error(server, recording):
    with pytest.raises(StreamError, match="does not know 'xx'") as caught:
        await asyncio.to_thread(listen, recording, url=server.url, targets=["xx"])

    assert caught.value.code == "unknown_language"


def test_a_missing_recording_is_an_error(tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav"):
        listen(tmp_path / "none.wav")


async def piped(server, *arguments, data):
    process = await asyncio.create_subprocess_exec(
        *SURTITLE,
        "--url",
        server.url,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate(data)
    return process.returncode, out.decode(), errors.decode()


async def test_standard_input_is_sent_to_its_end(server):
    code, out, errors = await piped(server, data=b"hola mundo.." + b"adios." * 1_000)

    assert (code, errors) == (0, "")
    assert "en  en:HOLA MUNDO" in out
    assert out.count("en  en:ADIOS") == 1_000


async def test_what_is_known_of_the_talk_goes_along(tmp_path):
    opened = []

    class Noting(SpellingDecoder):
        def __init__(self, config):
            opened.append(config)
            super().__init__(config)

    terms = tmp_path / "terms.tsv"
    terms.write_text("es\ten\ncoche\tautomobile\nBelén\n", encoding="utf-8")
    known = ("--glossary", str(terms), "--context", "Ana", "--context-sentences", "3")
    async with running(decoders=[DecoderWorker(lambda: loaded(Noting))]) as server:
        code, out, errors = await piped(server, *known, data=b"hola..")

    assert (code, errors) == (0, "")
    assert "es  hola" in out
    assert [(config.glossary, config.context) for config in opened] == [
        (({"es": "coche", "en": "automobile"}, "Belén"), ContextConfig("Ana", 3))
    ]


async def test_standard_input_in_another_form(server):
    code, out, _ = await piped(
        server, "--encoding", "mulaw", "--sample-rate", "8000", "--channels", "2", data=b"hola.."
    )

    assert code == 0
    assert "en  en:HOLA" in out


async def test_standard_input_that_is_not_what_was_said(server):
    code, out, errors = await piped(server, "--encoding", "opus", data=b"hola mundo..")

    assert (code, out) == (2, "")
    assert "announced as Opus" in errors
    assert errors.count("\n") == 1


async def test_an_interrupt_ends_what_never_ends(server):
    """As when ffmpeg, which was to be listened to, goes on."""
    process = await asyncio.create_subprocess_exec(
        *SURTITLE, "--url", server.url, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b"hola..ad")
    await process.stdin.drain()
    line = await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        out = await process.stdout.read()
        await process.wait()

    assert b"hola" in line
    assert b"en  en:AD" in out
    assert process.returncode == 0


async def test_a_microphone_needs_sounddevice(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)

    with pytest.raises(AudioError, match=r"pip install surtitle\[microphone\]"):
        await asyncio.to_thread(listen, microphone=True, url=server.url)


class Microphone:
    """As sounddevice, with somebody who says what is in ``speech`` and then presses Ctrl-C."""

    PortAudioError = OSError

    def __init__(self, speech):
        self.speech = speech
        self.opened = None

    def RawInputStream(self, *, callback, **options):  # noqa: N802 - sounddevice's name
        self.opened = options

        class Stream:
            def __enter__(stream):  # noqa: N805
                for piece in self.speech:
                    callback(memoryview(piece), len(piece) // 2, SimpleNamespace(), None)
                os.kill(os.getpid(), signal.SIGINT)

            def __exit__(stream, *error):  # noqa: N805
                pass

        return Stream()


async def test_a_microphone_is_heard_until_interrupted(tmp_path):
    """In a process of its own, whose main thread gets the signal."""
    program = f"""
import sys, asyncio
sys.path.insert(0, {str(Path.cwd())!r})
from tests.workers.test_listen import Microphone
from tests.workers.conftest import running
sys.modules["sounddevice"] = microphone = Microphone([b"hola", b"..", b"ad"])
from workers import listen
async def main():
    async with running() as server:
        start = listen.commands.Start()
        captions = listen.Captions(listen.Console(), "es")
        await listen._listen(server.url, start, listen._microphone(), captions)
asyncio.run(main())
assert microphone.opened == dict(samplerate=16000, channels=1, dtype="int16", blocksize=1600)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert "en  en:HOLA" in out.decode()
    assert "en  en:AD" in out.decode()


async def test_a_microphone_that_cannot_be_opened_is_an_error(monkeypatch):
    class Unplugged(Microphone):
        def RawInputStream(self, **options):  # noqa: N802
            raise self.PortAudioError("no default input device")

    monkeypatch.setitem(sys.modules, "sounddevice", Unplugged([]))

    with pytest.raises(AudioError, match="no microphone can be opened: no default input device"):
        await anext(_microphone())
