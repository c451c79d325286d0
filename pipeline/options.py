"""Options that several subcommands of ``surtitle`` have: what is spoken, what is known of it, and the model.

What an option names is read while options are: what is wrong with it is wrong usage, told in one line before
anything is loaded.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path

from pipeline.config import BEAMS, CONTEXT_SENTENCES, MOST_BEAMS, ContextConfig, StreamConfig
from pipeline.glossary import Entry, read_glossary


def add_languages(parser: ArgumentParser) -> None:
    """The languages spoken and wanted: ``source`` and ``targets``."""
    parser.add_argument(
        "--from", dest="source", required=True, metavar="LANGUAGE", help="spoken: es; either of es,en; auto"
    )
    parser.add_argument(
        "--to",
        dest="targets",
        action="append",
        required=True,
        metavar="LANGUAGE",
        help="to translate into, as in: --to en; can be repeated",
    )


def add_knowledge(parser: ArgumentParser) -> None:
    """What is known of the talk: ``context``, ``context_sentences`` and ``glossary``."""
    known = parser.add_argument_group("what is known of the talk")
    known.add_argument(
        "--context",
        type=_context,
        default="",
        metavar="TEXT|@FILE",
        help="names and topics that the model is told, if it was made for that",
    )
    known.add_argument(
        "--context-sentences",
        type=partial(_whole, 0, CONTEXT_SENTENCES),
        default=0,
        metavar="N",
        help="how many of the sentences said last it is told besides (default: 0)",
    )
    known.add_argument(
        "--glossary",
        type=_glossary,
        default=(),
        metavar="FILE",
        help="terms as they are to be spelled, one a line; or, with tabs between them and languages in the "
        "first line, as they are to be translated",
    )


def add_model(parser: ArgumentParser) -> None:
    """The model: ``model``."""
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder in Hugging Face layout, or a Hugging Face id (default: the bundled model)",
    )


def add_beams(parser: ArgumentParser, *, of_cpu: bool = False) -> None:
    """How final texts are searched for: ``beams``; a command that runs on a CPU has a default of its own."""
    parser.add_argument(
        "--beams",
        type=partial(_whole, 1, MOST_BEAMS),
        default=BEAMS if of_cpu else None,
        metavar="N",
        help=f"texts that go on beside each other where a final one is decoded, 1 for greedy decoding "
        f"(default: {BEAMS}{'' if of_cpu else ' on a CPU, 1 on a GPU'})",
    )


def context_of(options: Namespace) -> ContextConfig:
    """The context that :func:`add_knowledge` has read."""
    return ContextConfig(options.context, options.context_sentences)


def config_of(options: Namespace) -> StreamConfig:
    """A stream's settings with all that :func:`add_knowledge` and :func:`add_beams` have read."""
    return StreamConfig(context=context_of(options), glossary=options.glossary, beams=options.beams)


def _context(given: str) -> str:
    text = _read(given[1:]) if given.startswith("@") else given
    # One line, however a file is broken into lines.
    text = " ".join(text.split())
    try:
        return ContextConfig(text).text
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _whole(least: int, most: int, given: str) -> int:
    if not given.isdecimal() or not least <= int(given) <= most:
        raise ArgumentTypeError(f"must be a whole number from {least} to {most}, got {given!r}")
    return int(given)


def _glossary(given: str) -> tuple[Entry, ...]:
    text = _read(given)
    try:
        return read_glossary(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{given}: {error}") from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ArgumentTypeError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentTypeError(f"{path}: must be text in UTF-8") from None
