"""The command line: what goes to which stream, and with which exit code."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from pipeline import cli
from pipeline.config import AudioFormat, ContextConfig, StreamConfig
from pipeline.errors import AudioError, SurtitleError
from pipeline.recording import Translation
from pipeline.stream import Stream
from workers import listen, serve

LANGUAGES = ("--from", "es", "--to", "en")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> SimpleNamespace:
    """Run the command in this process; its exit code and what it printed."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return SimpleNamespace(code=code, out=captured.out, err=captured.err)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["speak"], "'speak'"),
        (["translate", *LANGUAGES], "TALK.wav"),
        (["translate", "talk.wav", "--from", "es"], "--to"),
        (["translate", "talk.wav", "--to", "en"], "--from"),
        (["translate", "talk.wav", *LANGUAGES, "--format", "pdf"], "'pdf'"),
        (["translate", "talk.wav", *LANGUAGES, "--realtime", "--format", "srt"], "--realtime"),
        (["serve", "--port", "http"], "'http'"),
        (["listen", *LANGUAGES], "--microphone"),
        (["listen", "talk.wav", "--microphone", *LANGUAGES], "not allowed with"),
        (["listen", "talk.wav", "--encoding", "opus", *LANGUAGES], "standard input"),
        (["listen", "-", "--encoding", "mp3", *LANGUAGES], "'mp3'; accepted are pcm_s16le"),
        (
            ["translate", "talk.wav", *LANGUAGES, "--glossary", "none.tsv"],
            "none.tsv: cannot be read: No such",
        ),
        (
            ["listen", "talk.wav", *LANGUAGES, "--context", "a" * 501],
            "--context: text must be a string of at",
        ),
        (["model"], "COMMAND"),
        (["model", "info"], "DIR"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(capsys, arguments, named):
    result = run(capsys, *arguments)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("surtitle")
    assert result.err.count("\n") == 1
    assert named in result.err


@pytest.mark.parametrize("arguments", [["--help"], ["translate", "--help"], ["model", "info", "--help"]])
def test_help_is_a_result(capsys, arguments):
    result = run(capsys, *arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("usage: surtitle")


@pytest.mark.parametrize(
    "arguments", ["--help", "translate --from es", "translate none.wav --from es --to en"]
)
def test_answers_that_need_no_model_do_not_wait_for_torch(arguments):
    program = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*({'torch', 'ray', 'websockets', 'transformers'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()], capture_output=True, text=True, check=True
    )
    assert result.stderr.splitlines()[-1] == ""


def test_package_can_be_run_as_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "translate"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("surtitle translate: ")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        (b"", "talk.wav"),
        (b"not audio at all, but text" * 9, "cannot be read as audio"),
    ],
)
def test_recording_that_cannot_be_read(capsys, tmp_path: Path, content, named):
    path = tmp_path / "talk.wav"
    if content is not None:
        path.write_bytes(content)
    result = run(capsys, "translate", path, *LANGUAGES)

    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert named in result.err


@pytest.mark.parametrize("command", ["translate", "info"])
def test_model_that_is_not_there(capsys, recording: Path, tmp_path: Path, command):
    missing = tmp_path / "nowhere"
    arguments = {
        "translate": ["translate", recording, *LANGUAGES, "--model", missing],
        "info": ["model", "info", missing],
    }
    result = run(capsys, *arguments[command])

    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert f"{missing}: no such folder" in result.err


def test_language_that_the_model_does_not_know(capsys, recording: Path, checkpoint: Path):
    result = run(capsys, "translate", recording, "--from", "es", "--to", "xx", "--model", checkpoint)
    assert (result.code, result.out) == (2, "")
    assert result.err == "surtitle: unknown language 'xx'; this model knows es, en\n"


def test_output_that_cannot_be_written_is_told_before_the_work(capsys, recording: Path, tmp_path: Path):
    output = tmp_path / "no" / "folder" / "talk.srt"
    result = run(capsys, "translate", recording, *LANGUAGES, "--output", output)
    assert (result.code, result.out) == (2, "")
    assert str(output) in result.err


def test_model_info_counts_every_tensor(capsys, checkpoint: Path):
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        stored = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    result = run(capsys, "model", "info", checkpoint)

    assert (result.code, result.err) == (0, "")
    table, submodels, cache, known = result.out.split("\n\n")
    rows = [line.rsplit(maxsplit=2) for line in table.splitlines()[1:] if not line.startswith("all")]
    assert sum(int(row[1].replace(",", "")) for row in rows) == sum(map(math.prod, stored))
    assert {name for name in ("per-layer embeddings", "audio", "vision") if name in table} == {
        "per-layer embeddings",
        "audio",
        "vision",
    }
    assert [line.split()[0] for line in submodels.splitlines()[1:]] == ["full", "half"]
    wide, half = (int(line.split()[-1].replace(",", "")) for line in cache.splitlines()[1:])
    assert wide == 2 * half > 0
    assert known.split() == ["languages", "es,", "en", "context", "refused"]


def test_model_info_tells_whether_a_model_takes_a_context(capsys, listening_checkpoint: Path):
    assert run(capsys, "model", "info", listening_checkpoint).out.split()[-2:] == ["context", "taken"]


def test_serve_passes_on_what_was_given(capsys, monkeypatch):
    given = {}
    monkeypatch.setattr(serve, "run", lambda **options: given.update(options))
    result = run(capsys, "serve", "--port", 0, "--model", "some/model", "--decoder-workers", 2, "--beams", 1)

    assert result.code == 0
    assert {name: value for name, value in given.items() if value is not None} == {
        "port": 0,
        "model": "some/model",
        "decoder_workers": 2,
        "beams": 1,
    }


def test_listen_passes_on_what_was_given(capsys, monkeypatch):
    given = {}
    monkeypatch.setattr(listen, "listen", lambda path, **options: given.update(path=path, **options))
    result = run(capsys, "listen", "talk.wav", *LANGUAGES, "--to", "fr")

    assert result.code == 0
    assert given == {
        "path": Path("talk.wav"),
        "microphone": False,
        "url": listen.DEFAULT_URL,
        "source": "es",
        "targets": ["en", "fr"],
        "audio": AudioFormat(),
        "context": ContextConfig(),
        "glossary": (),
    }


def test_what_is_known_of_the_talk_goes_to_every_stream(
    capsys, monkeypatch, recording: Path, checkpoint: Path, tmp_path: Path
):
    glossary, context = tmp_path / "terms.tsv", tmp_path / "talk.txt"
    glossary.write_text("es\ten\ncoche\tautomobile\nBelén\n", encoding="utf-8")
    context.write_text("Ana Belén\nRISC-V\n", encoding="utf-8")
    known = ["--glossary", glossary, "--context", f"@{context}", "--context-sentences", 2]
    config = StreamConfig(
        context=ContextConfig("Ana Belén RISC-V", 2),
        glossary=({"es": "coche", "en": "automobile"}, "Belén"),
        beams=4,
    )
    given = {}

    def heard(*_, config, **__):
        given["translate"] = config
        return Translation("es", ("en",), 0.0, [])

    class Heard(Stream):
        def __init__(self, model, *, config, **settings):
            given["realtime"] = config
            super().__init__(model, **settings)

        def feed(self, data):
            return []

    monkeypatch.setattr("pipeline.recording.translate", heard)
    monkeypatch.setattr("pipeline.stream.Stream", Heard)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(listen, "listen", lambda path, **options: given.update(listen=options))
    offline = [recording, *LANGUAGES, *known, "--model", checkpoint]

    assert run(capsys, "translate", *offline).code == 0
    assert run(capsys, "translate", *offline, "--realtime").code == 0
    assert run(capsys, "listen", recording, *LANGUAGES, *known).code == 0
    assert given["translate"] == given["realtime"] == config
    assert (given["listen"]["context"], given["listen"]["glossary"]) == (config.context, config.glossary)


@pytest.mark.parametrize("live", [(), ("--realtime",)])
def test_a_context_for_a_model_that_takes_none_is_wrong_usage(
    capsys, recording: Path, checkpoint: Path, live
):
    result = run(capsys, "translate", recording, *LANGUAGES, "--model", checkpoint, "--context", "Ana", *live)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("surtitle: context is not for this model")
    assert result.err.count("\n") == 1


class UnreachableError(SurtitleError):
    code = "unreachable"


@pytest.mark.parametrize(
    ("error", "code"),
    [(AudioError("no microphone"), 2), (UnreachableError("nobody answers"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_have_their_exit_code_and_one_line(capsys, monkeypatch, error, code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(listen, "listen", fail)
    result = run(capsys, "listen", "talk.wav", *LANGUAGES)

    assert (result.code, result.out) == (code, "")
    assert result.err == (f"surtitle: {error}\n" if str(error) else "")


@pytest.mark.parametrize("bits", [8, 4])
def test_converted_per_layer_embeddings_are_listed(capsys, checkpoint: Path, tmp_path: Path, bits):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    file = model / f"ple.int{bits}.safetensors"
    converted = run(capsys, "model", "convert-ple", model, "--bits", bits)
    size = f"{file.stat().st_size:,}"
    info = run(capsys, "model", "info", model)

    assert (converted.code, converted.out, converted.err) == (0, f"{file}  {size} bytes\n", "")
    assert info.out.splitlines()[-1].split() == [file.name, size]


def test_converted_per_layer_embeddings_can_lie_elsewhere(capsys, checkpoint: Path, tmp_path: Path):
    file = tmp_path / "table"
    assert run(capsys, "model", "convert-ple", checkpoint, "--out", file).code == 0
    assert file.is_file()
    result = run(capsys, "model", "convert-ple", checkpoint, "--out", tmp_path / "no" / "folder" / "table")
    assert (result.code, result.out) == (2, "")
    assert str(tmp_path / "no" / "folder") in result.err
    assert result.err.count("\n") == 1


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mix") / "mix.json"
    path.write_text('{"ffn_widths": 8}')
    return path


def test_a_slice_is_a_model(capsys, checkpoint: Path, tmp_path: Path, mix: Path):
    out = tmp_path / "slice"
    sliced = run(capsys, "model", "slice", checkpoint, "--out", out, "--config", mix)
    size = f"{(out / 'model.safetensors').stat().st_size:,}"
    full = run(capsys, "model", "info", out).out.split("\n\n")[1].splitlines()[1]

    assert (sliced.code, sliced.out, sliced.err) == (0, f"{out}  {size} bytes\n", "")
    assert full.split()[:2] == ["full", "8"]


def test_slices_that_there_are_not(capsys, checkpoint: Path, tmp_path: Path, mix: Path):
    """One line says why, and what there is."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    for arguments, named in (
        (["--preset", "e9b", "--out", tmp_path / "slice"], "'e9b'; known are e2b, "),
        (["--preset", "e2b", "--out", tmp_path / "slice"], "skip_layers must be"),
        (
            ["--config", tmp_path / "nothing.json", "--out", tmp_path / "slice"],
            "nothing.json: cannot be read",
        ),
        (["--config", mix, "--out", taken], f"{taken}: cannot be written: there is something"),
    ):
        result = run(capsys, "model", "slice", checkpoint, *arguments)
        assert (result.code, result.out) == (2, "")
        assert named in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "slice").exists()


def test_a_slice_is_wanted_in_one_way(capsys, checkpoint: Path, tmp_path: Path, mix: Path):
    for arguments in ([], ["--preset", "e2b", "--config", mix]):
        result = run(capsys, "model", "slice", checkpoint, "--out", tmp_path / "slice", *arguments)
        assert (result.code, result.out) == (2, "")
