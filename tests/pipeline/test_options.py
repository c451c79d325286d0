"""Options that name what is known of a talk: what they are read as, and what is told of wrong ones."""

from __future__ import annotations

import argparse

import pytest

from pipeline.config import ContextConfig, StreamConfig
from pipeline.options import add_beams, add_knowledge, add_languages, add_model, config_of, context_of


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(message)


def read(*arguments):
    parser = Parser()
    add_languages(parser)
    add_knowledge(parser)
    add_model(parser)
    add_beams(parser, of_cpu=True)
    return parser.parse_args(["--from", "es", "--to", "en", *map(str, arguments)])


def test_what_is_not_said_is_not_known():
    options = read()

    assert (options.source, options.targets, options.model) == ("es", ["en"], None)
    assert context_of(options) == ContextConfig()
    assert config_of(options) == StreamConfig(beams=4)
    assert config_of(read("--beams", 1)) == StreamConfig()


def test_a_context_is_a_text_or_in_a_file(tmp_path):
    path = tmp_path / "talk.txt"
    path.write_bytes("\ufeffAna Belén\r\n\r\n  RISC-V\t\n".encode())

    assert context_of(read("--context", " Ana  Belén ")).text == "Ana Belén"
    assert context_of(read("--context", f"@{path}", "--context-sentences", 20)) == ContextConfig(
        "Ana Belén RISC-V", 20
    )


def test_a_glossary_is_in_a_file(tmp_path):
    path = tmp_path / "terms.tsv"
    path.write_bytes("\ufeffes\ten\r\ncoche\tautomobile\r\nBelén\r\n".encode())

    assert config_of(read("--glossary", path)).glossary == ({"es": "coche", "en": "automobile"}, "Belén")


@pytest.mark.parametrize(
    ("arguments", "content", "says"),
    [
        (("--context", "a" * 501), None, "--context: text must be a string of at most 500 characters"),
        (("--context", "a\0b"), None, "--context: text must be one line of printable characters"),
        (("--context", "@{}"), None, "talk: cannot be read: No such file"),
        (("--context", "@{}"), b"\xff\xfe", "talk: must be text in UTF-8"),
        (("--context", "@{}"), b"a " * 251, "at most 500 characters"),
        (("--context-sentences", "21"), None, "a whole number from 0 to 20, got '21'"),
        (("--context-sentences", "all"), None, "a whole number from 0 to 20, got 'all'"),
        (("--beams", "17"), None, "a whole number from 1 to 16, got '17'"),
        (("--beams", "wide"), None, "a whole number from 1 to 16, got 'wide'"),
        (("--glossary", "{}"), None, "talk: cannot be read: No such file"),
        (("--glossary", "{}"), b"Bel\xe9n", "talk: must be text in UTF-8"),
        (("--glossary", "{}"), b"Ana\ncoche\tcar", "talk: line 2 has a tab, so the first line has to name"),
        (("--glossary", "{}"), b"a" * 61, "talk: line 1 must be a term of 1 to 60 characters"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, arguments, content, says):
    path = tmp_path / "talk"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AssertionError, match=says):
        read(*(argument.format(path) for argument in arguments))
