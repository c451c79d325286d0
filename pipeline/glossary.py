"""The glossary of a stream: terms as they are to be spelled, and how they are to be translated.

An entry is a string, a name that is spelled so in every language; or a mapping of languages to what something
is called in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Entry: TypeAlias = str | Mapping[str, str]

GLOSSARY_ENTRIES = 100
"""Most entries of a glossary."""

GLOSSARY_CHARACTERS = 60
"""Longest term, in characters."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")


def check_glossary(glossary: Sequence[Entry]) -> None:
    """See that a glossary is one.

    Raises:
        ValueError: it is not; the sentence names the entry and what is accepted.
    """
    if not isinstance(glossary, list | tuple) or len(glossary) > GLOSSARY_ENTRIES:
        raise ValueError(f"a glossary must be a list of at most {GLOSSARY_ENTRIES} entries")
    for number, entry in enumerate(glossary):
        _check_entry(f"entry {number}", entry)


def read_glossary(text: str) -> tuple[Entry, ...]:
    """A glossary as people write it down, with a term a line, or the terms of several languages in columns.

    Between two columns is a tab, and where there are columns, the first line names their languages. A line
    without a tab is a name that is spelled so in every language; empty lines and cells say nothing.

    Raises:
        ValueError: it is none; the sentence names the line and what is accepted.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    languages: list[str] = []
    if lines and "\t" in lines[0][1]:
        number, head = lines.pop(0)
        languages = _cells(head)
        for language in languages:
            _check_language(f"line {number}, which names the languages of the columns", language)
        if len(set(languages)) < len(languages):
            raise ValueError(f"line {number} names a language twice")
    entries: list[Entry] = []
    for number, line in lines:
        entry = _entry(f"line {number}", line, languages)
        _check_entry(f"line {number}", entry)
        entries.append(entry)
    if len(entries) > GLOSSARY_ENTRIES:
        raise ValueError(f"a glossary has at most {GLOSSARY_ENTRIES} entries, this one has {len(entries)}")
    return tuple(entries)


def _entry(where: str, line: str, languages: Sequence[str]) -> Entry:
    if "\t" not in line:
        return line.strip()
    terms = _cells(line)
    if not languages:
        raise ValueError(
            f"{where} has a tab, so the first line has to name the languages of the columns, "
            "such as es and en, with a tab between them"
        )
    if len(terms) > len(languages):
        raise ValueError(f"{where} has {len(terms)} columns, the first line names {len(languages)} languages")
    return {language: term for language, term in zip(languages, terms, strict=False) if term}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.rstrip().split("\t")]


def _check_entry(where: str, entry: object) -> None:
    if isinstance(entry, str):
        _check_term(where, entry)
        return
    if not isinstance(entry, Mapping) or not entry:
        raise ValueError(f"{where} must be a term, or an object of languages and their terms")
    for language, term in entry.items():
        _check_language(where, language)
        _check_term(f"{where}, {language},", term)


def _check_language(where: str, language: object) -> None:
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise ValueError(f"{where}: {str(language)[:20]!r} is not a language code such as 'es'")


def _check_term(where: str, term: object) -> None:
    if not isinstance(term, str) or not 1 <= len(term) <= GLOSSARY_CHARACTERS:
        raise ValueError(f"{where} must be a term of 1 to {GLOSSARY_CHARACTERS} characters")
    if not term.isprintable() or term != term.strip() or not re.search(r"\w", term):
        raise ValueError(f"{where} must be printable, with a letter or digit in it and no space around it")


def spellings(glossary: Sequence[Entry], language: str) -> list[str]:
    """The terms that a text in a language may have."""
    terms = (entry if isinstance(entry, str) else entry.get(language) for entry in glossary)
    return [term for term in terms if term is not None]


def renderings(glossary: Sequence[Entry], source: str, target: str, said: str) -> list[str]:
    """The terms that a translation has to have, each as often as it is said.

    Args:
        glossary: of the stream.
        source: language of the transcript,
        target: and of the translation.
        said: the transcript.
    """
    found = []
    for entry in glossary:
        if not isinstance(entry, str) and source in entry and target in entry:
            found += [entry[target]] * len(_places(said, entry[source]))
    return found


def says(text: str, term: str) -> bool:
    """Whether a term stands in a text, with any capitals, and not inside a longer word."""
    return bool(_places(text, term))


def _places(text: str, term: str) -> list[str]:
    return re.findall(rf"(?<!\w){re.escape(term)}(?!\w)", text, re.IGNORECASE)
