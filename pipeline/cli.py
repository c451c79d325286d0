"""The ``surtitle`` command.

Results go to standard output, everything else to standard error. Exit codes: 0 on success, 2 on wrong usage
or input that cannot be used (one line says why), 1 on any other failure, 130 when interrupted.

Modules that load torch, Ray or websockets are imported by the commands that need them: ``--help`` and
usage errors answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import pipeline
from pipeline.errors import SurtitleError
from pipeline.options import add_beams, add_knowledge, add_languages, add_model, config_of, context_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.layout import Description
    from pipeline.model import Gemma3n
    from pipeline.recording import Translation
    from pipeline.wire.events import Event

NANO = Path(pipeline.__file__).parent / "nano"
"""Folder of the bundled model."""

FORMATS = ("text", "json", "srt", "vtt")

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

INPUT_ERRORS = frozenset(
    {"bad_audio", "unknown_language", "unsupported", "bad_model", "bad_settings", "bad_message"}
)
"""Codes of the errors that other input would not have met; they are usage errors."""

LIVE_PIECE = 1_600
"""Samples in a piece of a live stream: 100 ms at 16 kHz."""


class UsageError(SurtitleError):
    """Options that do not go together, or an output that cannot be written."""

    code = "bad_usage"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit code.

    Raises:
        SystemExit: after ``--help`` and on wrong usage, as argparse has it.
    """
    options = _parser().parse_args(argv)
    try:
        options.run(options)
        sys.stdout.flush()
    except SurtitleError as error:
        print(f"surtitle: {error}", file=sys.stderr)
        return USAGE if error.code in INPUT_ERRORS or isinstance(error, UsageError) else FAILURE
    except BrokenPipeError:
        # Whoever read us has seen enough; the interpreter must not try to flush on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"surtitle: the result cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    return SUCCESS


class _Parser(argparse.ArgumentParser):
    """Answers wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="surtitle", description="Live speech translation with Gemma 3n.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    translate = commands.add_parser("translate", help="transcribe and translate a recording")
    translate.add_argument("recording", type=Path, metavar="TALK.wav")
    add_languages(translate)
    add_knowledge(translate)
    add_model(translate)
    add_beams(translate, of_cpu=True)
    translate.add_argument("--format", choices=FORMATS, help="of the result (default: text)")
    translate.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    translate.add_argument(
        "--realtime",
        action="store_true",
        help="hear it as a live stream at the speed of speech; prints one protocol event a line, as JSON",
    )
    translate.set_defaults(run=_translate)

    serve = commands.add_parser("serve", help="serve live streams over WebSockets")
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 8765)")
    add_model(serve)
    add_beams(serve)
    serve.add_argument("--config", type=Path, metavar="surtitle.toml", help="configuration file")
    serve.add_argument("--encoder-workers", type=int, metavar="N", help="processes that encode (default: 1)")
    serve.add_argument("--decoder-workers", type=int, metavar="N", help="processes that decode (default: 1)")
    serve.set_defaults(run=_serve)

    listen = commands.add_parser("listen", help="send speech to a server and show live captions")
    speech = listen.add_mutually_exclusive_group(required=True)
    speech.add_argument(
        "recording",
        type=Path,
        nargs="?",
        metavar="TALK.wav|-",
        help="sent at the speed of speech; - is standard input, sent as it comes",
    )
    speech.add_argument("--microphone", action="store_true", help="until Ctrl-C")
    listen.add_argument("--url", default="ws://127.0.0.1:8765/v1/stream", help="default: %(default)s")
    add_languages(listen)
    add_knowledge(listen)
    stdin = listen.add_argument_group("what comes from standard input")
    stdin.add_argument("--encoding", help="pcm_s16le (default), pcm_f32le, mulaw, alaw, opus or flac")
    stdin.add_argument("--sample-rate", type=int, metavar="HZ", help="default: 16000")
    stdin.add_argument("--channels", type=int, metavar="N", help="default: 1")
    listen.set_defaults(run=_listen)

    status = commands.add_parser(
        "status", help="show how a server is doing, in a table that stays up to date"
    )
    status.add_argument("url", metavar="URL", help="of the server, as in: http://127.0.0.1:8765")
    status.add_argument("--once", action="store_true", help="print it once")
    status.set_defaults(run=_status)

    keys = commands.add_parser("keys", help="make, list and revoke API keys of servers").add_subparsers(
        required=True, metavar="COMMAND"
    )
    add = keys.add_parser("add", help="make a key; it is printed, once, and only its hash is kept")
    add.add_argument("--tenant", required=True, metavar="NAME", help="whose streams the key is for")
    add.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        metavar="SCOPE",
        help="speak, watch, watch:ID or admin; can be repeated (default: speak and watch)",
    )
    add.set_defaults(run=_keys_add)
    show = keys.add_parser("list", help="print all keys of a file, without their secrets")
    show.set_defaults(run=_keys_list)
    revoke = keys.add_parser("revoke", help="make a key good for nothing; running servers take note")
    revoke.add_argument("id", metavar="ID", help="of the key, as list prints it")
    revoke.set_defaults(run=_keys_revoke)
    for command in (add, show, revoke):
        command.add_argument("--file", type=Path, required=True, metavar="keys.json", help="file of keys")

    model = commands.add_parser("model", help="look into models and convert them").add_subparsers(
        required=True, metavar="COMMAND"
    )
    info = model.add_parser("info", help="parameters and bytes by part, and the sub-models inside")
    info.add_argument("model", metavar="DIR", help="folder in Hugging Face layout, or a Hugging Face id")
    info.set_defaults(run=_model_info)
    convert = model.add_parser("convert-ple", help="write per-layer embeddings in 8 or 4 bits")
    convert.add_argument("model", metavar="DIR", help="folder in Hugging Face layout, or a Hugging Face id")
    convert.add_argument("--out", type=Path, metavar="FILE", help="default: ple.int8.safetensors in DIR")
    convert.add_argument("--bits", type=int, choices=(8, 4), default=8, help="default: 8")
    convert.set_defaults(run=_convert_ple)
    slice_ = model.add_parser("slice", help="write a MatFormer sub-model as a checkpoint of its own")
    slice_.add_argument("model", metavar="DIR", help="folder in Hugging Face layout, or a Hugging Face id")
    slice_.add_argument("--out", type=Path, required=True, metavar="DIR2", help="folder to write")
    which = slice_.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--preset", metavar="NAME", help="a published sub-model of E4B by its name, as in: --preset e2b"
    )
    which.add_argument(
        "--config",
        type=Path,
        metavar="mix.json",
        help="FFN widths and the layers to leave out (docs/matformer.md)",
    )
    slice_.set_defaults(run=_slice)
    return parser


def _translate(options: argparse.Namespace) -> None:
    if options.realtime and options.format not in (None, "json"):
        raise UsageError("--realtime prints protocol events as JSON; leave --format out")
    if options.format in ("srt", "vtt") and len(options.targets) > 1:
        raise UsageError(f"{options.format} subtitles are in one language; give --to once")

    from pipeline.audio.files import read_audio  # noqa: PLC0415

    waveform = read_audio(options.recording)
    with _output(options.output) as out:
        from pipeline.model import Gemma3n  # noqa: PLC0415

        model = Gemma3n.from_pretrained(options.model or NANO)
        if options.realtime:
            _translate_live(model, waveform, options, out)
        else:
            _translate_whole(model, waveform, options, out)


def _translate_whole(
    model: Gemma3n, waveform: NDArray[np.float32], options: argparse.Namespace, out: TextIO
) -> None:
    from pipeline.config import SAMPLE_RATE  # noqa: PLC0415
    from pipeline.recording import translate  # noqa: PLC0415

    with _progress(options.recording.name, len(waveform) / SAMPLE_RATE) as progress:
        translation = translate(
            model,
            waveform,
            source=options.source,
            targets=options.targets,
            config=config_of(options),
            progress=progress,
        )
    out.write(_formatted(translation, options.format or "text"))


def _formatted(translation: Translation, form: str) -> str:
    from pipeline.text import subtitles  # noqa: PLC0415

    language = translation.targets[0]
    match form:
        case "json":
            return json.dumps(dataclasses.asdict(translation), ensure_ascii=False, indent=2) + "\n"
        case "srt":
            return subtitles.srt(translation.cues(language), subtitles.CueConfig(language=language))
        case "vtt":
            return subtitles.vtt(translation.cues(language), subtitles.CueConfig(language=language))
    width = max(map(len, (*(said.language for said in translation.utterances), *translation.targets)))
    lines = []
    for said in translation.utterances:
        texts = {said.language: said.transcript, **said.translations}
        lines += [f"{language:<{width}}  {text}" for language, text in texts.items()]
        lines.append("")
    return "\n".join(lines)


def _translate_live(
    model: Gemma3n, waveform: NDArray[np.float32], options: argparse.Namespace, out: TextIO
) -> None:
    from pipeline.config import SAMPLE_RATE, AudioFormat  # noqa: PLC0415
    from pipeline.stream import Stream  # noqa: PLC0415
    from pipeline.wire.events import encode  # noqa: PLC0415

    audio, config = AudioFormat("pcm_f32le"), config_of(options)
    stream = Stream(model, source=options.source, targets=options.targets, audio=audio, config=config)

    def tell(events: Iterable[Event]) -> None:
        for event in events:
            print(encode(event), file=out, flush=True)

    started = time.monotonic()
    for begin in range(0, len(waveform), LIVE_PIECE):
        piece = waveform[begin : begin + LIVE_PIECE]
        spoken = started + (begin + len(piece)) / SAMPLE_RATE
        time.sleep(max(0.0, spoken - time.monotonic()))
        tell(stream.feed(piece.astype("<f4").tobytes()))
    tell(stream.close())


@contextmanager
def _progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, if that is a terminal; yields what to tell how much is done."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is opened before anything is computed for it."""
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        yield file


def _serve(options: argparse.Namespace) -> None:
    from workers import serve  # noqa: PLC0415

    serve.run(
        host=options.host,
        port=options.port,
        model=options.model,
        config=options.config,
        encoder_workers=options.encoder_workers,
        decoder_workers=options.decoder_workers,
        beams=options.beams,
    )


def _listen(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("encoding", "sample_rate", "channels")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and options.recording != Path("-"):
        raise UsageError(
            "--encoding, --sample-rate and --channels are for what comes from standard input (-)"
        )

    from pipeline.config import AudioFormat  # noqa: PLC0415
    from workers import listen  # noqa: PLC0415

    listen.listen(
        options.recording,
        microphone=options.microphone,
        url=options.url,
        source=options.source,
        targets=options.targets,
        audio=AudioFormat(**given),
        context=context_of(options),
        glossary=options.glossary,
    )


def _status(options: argparse.Namespace) -> None:
    from workers import status  # noqa: PLC0415

    status.show(options.url, once=options.once)


def _keys_add(options: argparse.Namespace) -> None:
    from workers.access import keys  # noqa: PLC0415

    print(keys.add_key(options.file, options.tenant, options.scopes or ("speak", "watch"), time.time))


def _keys_list(options: argparse.Namespace) -> None:
    from workers.access import keys  # noqa: PLC0415

    print(keys.listed(options.file), end="")


def _keys_revoke(options: argparse.Namespace) -> None:
    from workers.access import keys  # noqa: PLC0415

    keys.revoke_key(options.file, options.id, time.time)


def _model_info(options: argparse.Namespace) -> None:
    from pipeline import ple_file  # noqa: PLC0415
    from pipeline.layout import describe  # noqa: PLC0415

    model = describe(options.model)
    print(f"{'part':<22}{'place':<14}{'parameters':>16}{'bytes':>16}")
    for part in model.parts:
        if part.parameters:
            print(f"{part.name:<22}{part.place:<14}{part.parameters:>16,}{part.nbytes:>16,}")
    for place in ("accelerator", "cpu"):
        parts = [part for part in model.parts if part.place == place]
        parameters, nbytes = sum(p.parameters for p in parts), sum(p.nbytes for p in parts)
        print(f"{'all':<22}{place:<14}{parameters:>16,}{nbytes:>16,}")
    print(f"\n{'sub-model':<22}{'FFN width':<14}{'text core':>16}{'bytes':>16}")
    for sub in model.submodels:
        widths = sorted(set(sub.ffn_widths))
        width = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]}-{widths[-1]}"
        print(f"{sub.name:<22}{width:<14}{sub.parameters:>16,}{sub.nbytes:>16,}")
    if (model.folder / "tokenizer.json").is_file():
        _stream_info(model)
    if tables := ple_file.find(model.folder):
        print(f"\n{'converted per-layer embeddings':<52}{'bytes':>16}")
        for path in tables:
            print(f"{path.name:<52}{path.stat().st_size:>16,}")


def _stream_info(model: Description) -> None:
    import torch  # noqa: PLC0415

    from pipeline.config import BEAMS, StreamConfig  # noqa: PLC0415
    from pipeline.gemma.prompt import Prompt, PromptTemplate  # noqa: PLC0415
    from pipeline.gemma.tokenizer import Tokenizer  # noqa: PLC0415
    from pipeline.translation import most_bytes  # noqa: PLC0415

    template = PromptTemplate.from_pretrained(model.folder)
    prompt = Prompt(Tokenizer.from_pretrained(model.folder), template)
    config = StreamConfig(source=prompt.languages[0], targets=prompt.languages[-1:], beams=BEAMS)
    print(f"\n{'KV cache':<22}{'in':<14}{'most bytes':>16}")
    for dtype in (torch.float32, torch.bfloat16):
        nbytes = most_bytes(prompt, model.config.text, config, dtype)
        print(f"{'of one stream':<22}{str(dtype).removeprefix('torch.'):<14}{nbytes:>16,}")
    print(f"\n{'languages':<22}{', '.join(prompt.languages)}")
    print(f"{'context':<22}{'taken' if prompt.takes_context else 'refused'}")


def _convert_ple(options: argparse.Namespace) -> None:
    from pipeline import ple_file  # noqa: PLC0415

    with _progress("per-layer embeddings", 1.0) as progress:
        try:
            path = ple_file.convert(options.model, options.out, options.bits, progress)
        except OSError as error:
            where = options.out or options.model
            raise UsageError(f"{where}: cannot be written: {error.strerror}") from None
    print(f"{path}  {path.stat().st_size:,} bytes")


def _slice(options: argparse.Namespace) -> None:
    from pipeline.gemma.matformer import PRESETS, Mix  # noqa: PLC0415
    from pipeline.slicing import slice_model  # noqa: PLC0415

    if options.config is not None:
        mix = Mix.from_file(options.config)
    elif options.preset in PRESETS:
        mix = PRESETS[options.preset]
    else:
        raise UsageError(f"unknown preset {options.preset!r}; known are {', '.join(PRESETS)}")
    with _progress("slice", 1.0) as progress:
        try:
            path = slice_model(options.model, options.out, mix, progress)
        except OSError as error:
            raise UsageError(f"{options.out}: cannot be written: {error.strerror}") from None
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    print(f"{path}  {size:,} bytes")
