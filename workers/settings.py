"""``surtitle.toml``: how the server runs, as far as its defaults do not fit.

.. code-block:: toml

    [server]
    host = "127.0.0.1"
    port = 8765
    resume_seconds = 60        # how long a stream waits for a client whose connection broke

    [model]
    path = "models/gemma-3n-E2B-it"
    device = "cpu"             # or "cuda"
    dtype = "float32"          # or "bfloat16"
    ple = "ple.int8.safetensors"  # per-layer embeddings made by "surtitle model convert-ple"

    [workers]
    encoders = 1
    decoders = 1
    streams = 32               # most streams in one worker at a time
    threads = 2                # torch threads of one worker; default: the cores, shared out

    [[sinks]]                  # where captions are pushed to; see docs/sinks.md
    name = "hall"
    kind = "zoom"
    language = "en"
    locale = "en-US"
    url_file = "/run/secrets/zoom"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import SurtitleError
from workers.sinks.config import SinkSettings, read_sink

_DTYPES = ("float32", "bfloat16")


class SettingsError(SurtitleError):
    """A configuration file that cannot be used."""

    code = "bad_settings"


@dataclass(frozen=True)
class Settings:
    """How the server runs.

    Args:
        host: address to listen on.
        port: TCP port to listen on; 0 takes any free one.
        resume_seconds: how long a stream waits for a client whose connection broke.
        model: folder of the model; ``None`` is the bundled one.
        device: where the models compute, in torch's words.
        dtype: ``float32`` or ``bfloat16``.
        ple: file of converted per-layer embeddings; ``None`` takes those of the model's folder.
        encoder_workers: processes that encode.
        decoder_workers: processes that decode.
        streams: most streams in one worker at a time.
        threads: torch threads of one worker; ``None`` shares the machine's cores out.
        sinks: where captions can be pushed to.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    resume_seconds: float = 60.0
    model: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    ple: str | None = None
    encoder_workers: int = 1
    decoder_workers: int = 1
    streams: int = 32
    threads: int | None = None
    sinks: tuple[SinkSettings, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65_535),
            ("resume_seconds", 0, 86_400),
            ("encoder_workers", 1, 256),
            ("decoder_workers", 1, 256),
            ("streams", 1, 10_000),
            ("threads", 1, 1_024),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name} must be from {low} to {high}, got {value}")
        if self.dtype not in _DTYPES:
            raise SettingsError(f"dtype must be {' or '.join(_DTYPES)}, got {self.dtype!r}")

    def override(self, **given: Any) -> Settings:
        """The same with what was given on the command line; ``None`` gives nothing."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


_TABLES = {
    "server": {"host": "host", "port": "port", "resume_seconds": "resume_seconds"},
    "model": {"path": "model", "device": "device", "dtype": "dtype", "ple": "ple"},
    "workers": {
        "encoders": "encoder_workers",
        "decoders": "decoder_workers",
        "streams": "streams",
        "threads": "threads",
    },
}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str,),
    "int": (int,),
    "int | None": (int,),
    "float": (int, float),
}


def read_settings(path: Path) -> Settings:
    """Read a configuration file.

    Raises:
        SettingsError: it cannot be read, is not TOML, or has an unknown key or a value out of range;
            the sentence names the file, the key and what is accepted.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from None
    types = {field.name: _TYPES[str(field.type)] for field in fields(Settings) if field.name != "sinks"}
    values: dict[str, Any] = {}
    if "sinks" in raw:
        values["sinks"] = _read_sinks(path, raw.pop("sinks"))
    for table, content in raw.items():
        if table not in _TABLES or not isinstance(content, dict):
            raise SettingsError(
                f"{path}: no table [{table}] is known; accepted are {_listed(_TABLES)}, [[sinks]]"
            )
        for key, value in content.items():
            name = _TABLES[table].get(key)
            if name is None:
                raise SettingsError(
                    f"{path}: [{table}] has no key {key!r}; accepted are {_listed(_TABLES[table])}"
                )
            if isinstance(value, bool) or not isinstance(value, types[name]):
                wanted = " or ".join(kind.__name__ for kind in types[name])
                raise SettingsError(f"{path}: {table}.{key} must be of type {wanted}, got {value!r}")
            values[name] = value
    try:
        return Settings(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _read_sinks(path: Path, tables: Any) -> tuple[SinkSettings, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{path}: sinks are tables [[sinks]]")
    sinks: dict[str, SinkSettings] = {}
    for table in tables:
        try:
            sink = read_sink(table)
        except ValueError as error:
            raise SettingsError(f"{path}: [[sinks]]: {error}") from None
        if sink.name in sinks:
            raise SettingsError(f"{path}: [[sinks]]: the name {sink.name!r} is there twice")
        sinks[sink.name] = sink
    return tuple(sinks.values())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
