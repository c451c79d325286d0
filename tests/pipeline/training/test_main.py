"""The recipe as a user runs it, in small: text in, a checkpoint out that translates a stream."""

from __future__ import annotations

import gzip
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Gemma3n, Stream
from pipeline.audio.files import read_audio
from pipeline.config import AudioFormat
from pipeline.training import __main__ as command
from pipeline.training import engines
from pipeline.training.synthesis import synthesise
from pipeline.training.text import Pair

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def text(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the recipe asks for, with little in it."""
    folder = tmp_path_factory.mktemp("text")
    for language in ("es", "fr"):
        own = [pair for pair in pairs if pair.language == language]
        for name, some in (("split-dev", own[:40]), ("split-train", own[40:])):
            with gzip.open(folder / f"{name}.{language}-en.tsv.gz", "wt", encoding="utf-8") as file:
                file.writelines(f"{pair.source}\t{pair.target}\n" for pair in some)
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.training", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losses(output: str, name: str) -> list[float]:
    return [float(loss) for loss in re.findall(rf"^step .*\b{name} (\d+\.\d+)", output, re.MULTILINE)]


@pytest.mark.usefixtures("espeak_ng")
def test_the_tiny_recipe_makes_a_model_that_runs(text: Path, tmp_path: Path, recording: Path, capsys):
    """Of the first step the log has the loss itself, which with this seed is one of speech; then means."""
    out, speech = tmp_path / "model", tmp_path / "speech"
    common = ("--tiny", "--languages", "es,fr,en", "--told", 0.1, "--text", text)
    common = (*common, "--speech", speech, "--device", "cpu", "--seed", 2)
    done = run(*common, "--out", out, "--chunks", 6, "--steps", 100)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"trained for 100 steps; checkpoint in {out}" in done.stdout
    first, mean, later = losses(done.stdout, "ctc")
    assert later < mean < 0.9 * first, done.stdout
    # At first the decoder does not listen yet.
    mean, answer = losses(done.stdout, "answer")
    assert answer < mean, done.stdout

    model = Gemma3n.from_pretrained(out)
    assert model.languages == ("es", "fr", "en")
    assert model.prompt.takes_context
    stream = Stream(model, "es", ["en"], AudioFormat("pcm_f32le"))
    events = [*stream.feed(read_audio(recording)[: 6 * 16_000].tobytes()), *stream.close()]
    assert events[-1].type == "done"
    assert any(event.type == "transcript" and event.final for event in events)

    # Going on from there, with the speech that is there already.
    more = (*common, "--out", tmp_path / "more", "--resume", out, "--chunks", 4, "--steps", 1)
    with torch.random.fork_rng():
        command.main([*map(str, more)])
    (resumed,) = losses(capsys.readouterr().out, "answer")
    assert resumed < 0.95 * math.log(model.config.text.vocab_size), "no better than a guess among all tokens"
    assert Gemma3n.from_pretrained(tmp_path / "more").config == model.config


@pytest.mark.usefixtures("espeak_ng")
def test_speech_may_be_made_before_the_training(text: Path, tmp_path: Path, capsys, monkeypatch):
    """By more processes on a GPU than beside it, where none of them speaks there any more."""
    made: list[dict[str, Any]] = []

    def noted(*arguments: Any, **options: Any) -> None:
        made.append(options)
        synthesise(*arguments, **options)

    monkeypatch.setattr(command, "synthesise", noted)
    monkeypatch.setattr(command, "in_background", lambda make: nullcontext(lambda: make() or False))
    common = ("--tiny", "--text", text, "--speech", tmp_path / "speech", "--out", tmp_path / "model")
    common = (*common, "--device", "cpu", "--steps", 1, "--chunks", 2)
    with torch.random.fork_rng():
        command.main([*map(str, (*common, "--speak-minutes", 10))])

    assert "\n2 chunks, " in capsys.readouterr().out
    first, *beside = made
    assert first["seconds"] == 600
    assert first["per_gpu"] == 4
    assert {options["per_gpu"] for options in beside} == {0}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main([*map(str, arguments)])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_engines_that_are_not_installed_are_named(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engines, "_is_there", lambda part: "espeak" in str(part))
    arguments = ("--text", text, "--speech", tmp_path / "speech", "--out", tmp_path / "out")

    assert "missing (docs/training.md): libttspico-utils, flite, festvox-kallpc16k" in refusal(
        capsys, *arguments
    )
    assert not (tmp_path / "speech").exists()


def test_engines_must_speak_every_language(text, tmp_path, capsys):
    arguments = ("--text", text, "--speech", tmp_path, "--out", tmp_path, "--engines", "flite")

    assert "no voice of flite speaks es" in refusal(capsys, *arguments)


@pytest.mark.parametrize("languages", ["en", "es", "es,fr", "es,xx,en"])
def test_languages_are_english_and_others(languages: str, tmp_path, capsys):
    arguments = ("--languages", languages, "--text", tmp_path, "--speech", tmp_path, "--out", tmp_path)

    assert "--languages: en and others of es,fr,it,pt,en" in refusal(capsys, *arguments)


def test_missing_text_is_named(tmp_path, capsys):
    error = refusal(capsys, "--tiny", "--text", tmp_path, "--speech", tmp_path, "--out", tmp_path)

    assert "split-dev.es-en.tsv.gz" in error
