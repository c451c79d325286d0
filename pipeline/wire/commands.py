"""What a client may say: protocol version 1, client to server.

Everything here comes from outside. :func:`parse_command` turns a text message into one of the frozen
:data:`Command` classes or raises :exc:`~pipeline.errors.ProtocolError` with a sentence that names the
field, the value and what is accepted; nothing else comes out, whatever goes in. :func:`encode_command` is for
clients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn, TypeAlias

from pipeline.config import AudioFormat, ContextConfig, PolicyConfig
from pipeline.errors import AudioError, ProtocolError
from pipeline.glossary import Entry, check_glossary

MAX_TARGETS = 8
"""Most languages that one stream can be translated into at a time."""

MAX_SINKS = 16
"""Most sinks that a stream may ask for."""

MAX_ID_LENGTH = 128
"""Longest ``mark`` id, ``stream_id``, ``token`` or name of a sink, in characters."""

_AUTO = "auto"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")
_SHOWN_LENGTH = 60


@dataclass(frozen=True)
class Resume:
    """Which stream a returning client wants back, and the ``seq`` of the last event it has."""

    stream_id: str
    token: str
    after_seq: int = 0


@dataclass(frozen=True)
class Start:
    """First message of every connection: a new stream, or with ``resume`` one that was cut off."""

    source: str = "es"
    targets: tuple[str, ...] = ("en",)
    audio: AudioFormat = field(default_factory=AudioFormat)
    partials: bool = True
    resume: Resume | None = None
    sinks: tuple[str, ...] = ()
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    word_times: bool = False
    context: ContextConfig = field(default_factory=ContextConfig)
    glossary: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Flush:
    """Finalise what was said so far, now."""


@dataclass(frozen=True)
class Mark:
    """Ask for a ``mark`` event once everything sent before has been processed."""

    id: str = ""


@dataclass(frozen=True)
class Update:
    """Change the stream from its next utterance on; ``None`` leaves a setting as it is."""

    targets: tuple[str, ...] | None = None
    partials: bool | None = None
    context: ContextConfig | None = None
    glossary: tuple[Entry, ...] | None = None


@dataclass(frozen=True)
class Stop:
    """No more audio: finalise, send ``done``, close."""


Command: TypeAlias = Start | Flush | Mark | Update | Stop


def parse_command(text: str) -> Command:
    """Read one text message.

    Raises:
        ProtocolError: it is not one of protocol version 1; ``code`` is ``bad_message``,
            ``unknown_type``, ``bad_audio`` or ``unknown_language``.
    """
    try:
        return _parse(text)
    except RecursionError:
        _refuse("the message is nested too deeply; accepted is a JSON object as in protocol version 1")


def encode_command(command: Command) -> str:
    """Write a command down as the text message that :func:`parse_command` reads."""
    given = {name: value for name, value in asdict(command).items() if value is not None}
    return json.dumps({"type": type(command).__name__.lower(), **given})


def _parse(text: str) -> Command:
    message = _object("message", _load(text))
    kind = message.pop("type", None)
    if not isinstance(kind, str) or kind not in _COMMANDS:
        accepted = ", ".join(_COMMANDS)
        raise ProtocolError(
            f"unknown message type {_shown(kind)}; accepted are {accepted}"
            if kind is not None
            else f"the message has no type; accepted are {accepted}",
            code="unknown_type",
        )
    command, checks = _COMMANDS[kind]
    return command(**_checked(kind, message, checks))


def _load(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        _refuse(f"the message is not JSON ({error}); accepted is a JSON object with a type")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _checked(where: str, given: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    _refuse_unknown(where, given, checks)
    return {name: checks[name](f"{where}.{name}", value) for name, value in given.items()}


def _refuse_unknown(where: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    names = list(accepted)
    unknown = [name for name in given if name not in names]
    if unknown:
        listed = ", ".join(names) or "no fields besides type"
        _refuse(f"{where} has no field {_shown(unknown[0])}; accepted: {listed}")


def _fields_of(
    kind: type[AudioFormat | ContextConfig | PolicyConfig], name: str, value: object
) -> dict[str, Any]:
    given = _object(name, value)
    _refuse_unknown(name, given, (item.name for item in fields(kind)))
    return given


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{name} must be a JSON object, got {_shown(value)}")
    return dict(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(f"{name} must be true or false, got {_shown(value)}")
    return value


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(f"{name} must be a whole number from 0 up, got {_shown(value)}")
    return value


def _identifier(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_ID_LENGTH:
        _refuse(f"{name} must be a string of at most {MAX_ID_LENGTH} characters, got {_shown(value)}")
    if not value.isprintable():  # a lone surrogate could not be echoed as UTF-8
        _refuse(f"{name} must consist of printable characters, got {_shown(value)}")
    return value


def _language(name: str, value: object) -> str:
    if not isinstance(value, str) or not _LANGUAGE.fullmatch(value):
        raise ProtocolError(
            f"{name} must be a language code such as 'es' or 'en', got {_shown(value)}",
            code="unknown_language",
        )
    return value


def _source(name: str, value: object) -> str:
    codes = value.split(",") if isinstance(value, str) else ()
    if value != _AUTO and not all(map(_LANGUAGE.fullmatch, codes or ("",))):
        raise ProtocolError(
            f"{name} must be a language code such as 'es', several such as 'es,en', or 'auto', "
            f"got {_shown(value)}",
            code="unknown_language",
        )
    if len(set(codes)) < len(codes):
        _refuse(f"{name} must not name a language twice, got {_shown(value)}")
    return str(value)


def _languages(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TARGETS:
        _refuse(f"{name} must be a list of 1 to {MAX_TARGETS} language codes, got {_shown(value)}")
    languages = tuple(_language(f"{name}[{index}]", item) for index, item in enumerate(value))
    if len(set(languages)) < len(languages):
        _refuse(f"{name} must not name a language twice, got {_shown(value)}")
    return languages


def _names(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_SINKS:
        _refuse(f"{name} must be a list of at most {MAX_SINKS} names, got {_shown(value)}")
    return tuple(_identifier(f"{name}[{index}]", item) for index, item in enumerate(value))


def _audio(name: str, value: object) -> AudioFormat:
    given = _fields_of(AudioFormat, name, value)
    try:
        return AudioFormat(**given)
    except AudioError as error:
        raise ProtocolError(f"{name}: {str(error)[:300]}", code=error.code) from None


def _policy(name: str, value: object) -> PolicyConfig:
    given = _fields_of(PolicyConfig, name, value)
    try:
        return PolicyConfig(**given)
    except (ValueError, TypeError) as error:
        _refuse(f"{name}: {str(error)[:300]}")


def _context(name: str, value: object) -> ContextConfig:
    given = _fields_of(ContextConfig, name, value)
    try:
        return ContextConfig(**given)
    except ValueError as error:
        _refuse(f"{name}: {str(error)[:300]}")


def _glossary(name: str, value: object) -> tuple[Entry, ...]:
    if not isinstance(value, list):
        _refuse(f"{name} must be a list, got {_shown(value)}")
    try:
        check_glossary(value)
    except ValueError as error:
        _refuse(f"{name}: {str(error)[:300]}")
    return tuple(value)


def _resume(name: str, value: object) -> Resume:
    given = _checked(
        name, _object(name, value), {"stream_id": _identifier, "token": _identifier, "after_seq": _count}
    )
    for key in ("stream_id", "token"):
        if key not in given:
            _refuse(f"{name} needs stream_id and token, {key} is missing")
    return Resume(**given)


def _refuse(sentence: str) -> NoReturn:
    raise ProtocolError(sentence)


def _shown(value: object) -> str:
    """The value as a client would recognise it: ASCII, and short enough for an error event."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."


Check: TypeAlias = Callable[[str, object], Any]

_COMMANDS: dict[str, tuple[Callable[..., Command], dict[str, Check]]] = {
    "start": (
        Start,
        {
            "source": _source,
            "targets": _languages,
            "audio": _audio,
            "partials": _flag,
            "resume": _resume,
            "sinks": _names,
            "policy": _policy,
            "word_times": _flag,
            "context": _context,
            "glossary": _glossary,
        },
    ),
    "flush": (Flush, {}),
    "mark": (Mark, {"id": _identifier}),
    "update": (
        Update,
        {"targets": _languages, "partials": _flag, "context": _context, "glossary": _glossary},
    ),
    "stop": (Stop, {}),
}
