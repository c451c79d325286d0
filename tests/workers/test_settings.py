"""surtitle.toml is read, or refused with a sentence that says what to change."""

from __future__ import annotations

import re

import pytest

from workers import settings
from workers.settings import Settings, SettingsError, read_settings
from workers.sinks.config import read_sink


def read(tmp_path, text):
    path = tmp_path / "surtitle.toml"
    path.write_text(text)
    return read_settings(path)


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read(tmp_path, "") == Settings()


def test_the_example_of_the_documentation_is_read(tmp_path):
    example = settings.__doc__.split(".. code-block:: toml\n")[1].replace("\n    ", "\n")

    zoom = {"name": "hall", "kind": "zoom", "language": "en", "locale": "en-US"}
    assert read(tmp_path, example) == Settings(
        model="models/gemma-3n-E2B-it",
        encoder_device="cpu",
        ple="ple.int8.safetensors",
        beams=4,
        threads=2,
        sinks=(read_sink({**zoom, "url_file": "/run/secrets/zoom"}),),
    )


def test_layers_are_compiled_where_that_is_asked_for(tmp_path):
    assert not read(tmp_path, "[model]\ndevice = 'cuda'").fuse
    assert read(tmp_path, "[model]\ndevice = 'cuda'\nfuse = true").fuse


def test_final_texts_are_searched_for_on_a_cpu_and_where_that_is_asked_for(tmp_path):
    assert read(tmp_path, "").searched == 4
    assert read(tmp_path, "[model]\nbeams = 1").searched == 1
    assert read(tmp_path, "[model]\ndevice = 'cuda'").searched == 1
    assert read(tmp_path, "[model]\ndevice = 'cuda'\nbeams = 2").searched == 2


def test_the_command_line_goes_first():
    assert Settings(port=1).override(port=2, host=None) == Settings(port=2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("port = 1", "no table [port] is known; accepted are server, model, workers"),
        ("[servers]", "no table [servers] is known"),
        ("[server]\nprot = 1", "[server] has no key 'prot'; accepted are host, port, resume_seconds"),
        ("[server]\nport = '1'", "server.port must be of type int, got '1'"),
        ("[server]\nport = true", "server.port must be of type int, got True"),
        ("[server]\nport = 65536", "port must be from 0 to 65535, got 65536"),
        ("[server]\nresume_seconds = 'long'", "server.resume_seconds must be of type int or float"),
        ("[workers]\nthreads = 0", "threads must be from 1 to 1024, got 0"),
        ("[model]\ndtype = 'int4'", "dtype must be float32 or bfloat16 or int8, got 'int4'"),
        ("[model]\nfuse = 1\ndevice = 'cuda'", "model.fuse must be of type bool, got 1"),
        ("[model]\nfuse = true", "fuse is for a GPU, got device 'cpu'"),
        ("[model]\ndtype = 'int8'\ndevice = 'cuda'", "dtype int8 is for the CPU, got device 'cuda'"),
        ("[model]\nbeams = 17", "beams must be from 1 to 16, got 17"),
        ("[server", "not a TOML file"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, sentence):
    with pytest.raises(SettingsError, match=re.escape(sentence)) as caught:
        read(tmp_path, text)

    assert "surtitle.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")


def test_sinks_are_tables_of_their_own(tmp_path):
    path = tmp_path / "surtitle.toml"
    path.write_text(
        '[server]\nport = 1\n[[sinks]]\nname = "hall"\nkind = "youtube"\nlanguage = "en"\nurl = "http://a/"\n'
        '[[sinks]]\nname = "mixer"\nkind = "obs"\nlanguage = "fr"\nurl = "ws://a/"\nalways = true\n'
    )
    settings = read_settings(path)

    assert [(sink.name, sink.kind, sink.always) for sink in settings.sinks] == [
        ("hall", "youtube", False),
        ("mixer", "obs", True),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[sinks]\nname = "hall"\n', r"tables \[\[sinks\]\]"),
        ('[[sinks]]\nname = "hall"\n', "kind is missing"),
        ('[[sinks]]\nname="a"\nkind="youtube"\nlanguage="en"\nurl="http://a/"\n' * 2, "'a' is there twice"),
    ],
)
def test_sinks_that_cannot_be_used(tmp_path, text, says):
    path = tmp_path / "surtitle.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_settings(path)


def test_encoders_compute_where_decoders_do_unless_told_otherwise(tmp_path):
    path = tmp_path / "surtitle.toml"
    path.write_text('[model]\ndevice = "cuda"\ndtype = "bfloat16"\n')
    assert read_settings(path).encoding == ("cuda", "bfloat16")

    path.write_text('[model]\ndevice = "cuda"\ndtype = "bfloat16"\nencoder_device = "cpu"\n')
    assert read_settings(path).encoding == ("cpu", "float32")
