"""``surtitle.toml``: how the server runs, as far as its defaults do not fit.

.. code-block:: toml

    [server]
    host = "127.0.0.1"
    port = 8765
    resume_seconds = 60        # how long a stream waits for a client whose connection broke
    logs = "text"              # or "json": an object a line, with the ids of streams, from level info up
    drain_seconds = 30         # how long, after SIGTERM, streams may take to come to their end

    [model]
    path = "models/gemma-3n-E2B-it"
    device = "cpu"             # or "cuda"
    dtype = "float32"          # or "bfloat16", or "int8" on a CPU
    fuse = false               # or true: layers compiled on a GPU, which a start waits for
    encoder_device = "cpu"     # where encoders compute, in float32, if not where decoders do
    ple = "ple.int8.safetensors"  # per-layer embeddings made by "surtitle model convert-ple"
    beams = 4                  # texts that go on beside each other where a final one is decoded, 1 (greedy)
                               # to 16; default: 4 on a CPU, 1 on a GPU

    [workers]
    encoders = 1
    decoders = 1
    spares = 0                 # workers of each kind besides, to which streams move when theirs is lost
    target_load = 0.0          # share of the time that a worker may be busy, as 0.8: beyond it, narrower
                               # sub-models are used, at last streams are refused; 0 is without a limit
    streams = 32               # most streams in one worker at a time
    threads = 2                # torch threads of one worker; default: the cores, shared out

    # [security] and [limits]: see workers/access/settings.py

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
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.config import BEAMS, MOST_BEAMS
from pipeline.errors import SurtitleError
from workers.access.settings import AccessSettings, read_access
from workers.logs import FORMATS
from workers.sinks.config import SinkSettings, read_sink

_DTYPES = ("float32", "bfloat16", "int8")


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
        logs: ``text`` or ``json``.
        drain_seconds: how long, after SIGTERM, streams may take to come to their end.
        model: folder of the model; ``None`` is the bundled one.
        device: where the models compute, in torch's words.
        dtype: ``float32`` or ``bfloat16``; or ``int8``, which is float32 with rounded weights, on a CPU.
        fuse: whether the decoder's layers are compiled, on a GPU.
        encoder_device: where encoders compute, in float32; ``None`` is where and how decoders do.
        ple: file of converted per-layer embeddings; ``None`` takes those of the model's folder.
        beams: texts that go on beside each other where a final one is decoded; ``None`` is what
            :attr:`searched` says.
        encoder_workers: processes that encode.
        decoder_workers: processes that decode.
        spares: workers of each kind besides, which take over the streams of one that is lost.
        target_load: share of the time that a worker may be busy; 0 is without a limit.
        streams: most streams in one worker at a time.
        threads: torch threads of one worker; ``None`` shares the machine's cores out.
        access: who may connect and how much everybody may have.
        sinks: where captions can be pushed to.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    resume_seconds: float = 60.0
    drain_seconds: float = 30.0
    logs: str = "text"
    model: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    fuse: bool = False
    encoder_device: str | None = None
    ple: str | None = None
    beams: int | None = None
    encoder_workers: int = 1
    decoder_workers: int = 1
    spares: int = 0
    target_load: float = 0.0
    streams: int = 32
    threads: int | None = None
    access: AccessSettings = field(default_factory=AccessSettings)
    sinks: tuple[SinkSettings, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65_535),
            ("resume_seconds", 0, 86_400),
            ("drain_seconds", 0, 86_400),
            ("encoder_workers", 1, 256),
            ("decoder_workers", 1, 256),
            ("spares", 0, 256),
            ("target_load", 0, 1),
            ("streams", 1, 10_000),
            ("threads", 1, 1_024),
            ("beams", 1, MOST_BEAMS),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name} must be from {low} to {high}, got {value}")
        if self.logs not in FORMATS:
            raise SettingsError(f"logs must be {' or '.join(FORMATS)}, got {self.logs!r}")
        if self.dtype not in _DTYPES:
            raise SettingsError(f"dtype must be {' or '.join(_DTYPES)}, got {self.dtype!r}")
        if self.dtype == "int8" and not self.device.startswith("cpu"):
            raise SettingsError(f"dtype int8 is for the CPU, got device {self.device!r}")
        if self.fuse and self.device.startswith("cpu"):
            raise SettingsError(f"fuse is for a GPU, got device {self.device!r}")

    @property
    def searched(self) -> int:
        """Beams: a search goes beside the passes that a GPU has recorded, which costs all streams time."""
        return self.beams or (BEAMS if self.device.startswith("cpu") else 1)

    @property
    def encoding(self) -> tuple[str, str]:
        """Device and dtype of encoders."""
        if self.encoder_device is None:
            return self.device, self.dtype
        return self.encoder_device, "float32"

    def override(self, **given: Any) -> Settings:
        """The same with what was given on the command line; ``None`` gives nothing."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


_TABLES = {
    "server": {
        "host": "host",
        "port": "port",
        "resume_seconds": "resume_seconds",
        "drain_seconds": "drain_seconds",
        "logs": "logs",
    },
    "model": {
        "path": "model",
        "device": "device",
        "dtype": "dtype",
        "fuse": "fuse",
        "encoder_device": "encoder_device",
        "ple": "ple",
        "beams": "beams",
    },
    "workers": {
        "encoders": "encoder_workers",
        "decoders": "decoder_workers",
        "spares": "spares",
        "target_load": "target_load",
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
    "bool": (bool,),
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
    types = {known.name: _TYPES[str(known.type)] for known in fields(Settings) if str(known.type) in _TYPES}
    values: dict[str, Any] = {}
    if "sinks" in raw:
        values["sinks"] = _read_sinks(path, raw.pop("sinks"))
    values["access"] = _read_access(path, {table: raw.pop(table, {}) for table in ("security", "limits")})
    for table, content in raw.items():
        if table not in _TABLES or not isinstance(content, dict):
            raise SettingsError(
                f"{path}: no table [{table}] is known; accepted are {_listed(_TABLES)}, security, limits, "
                "[[sinks]]"
            )
        for key, value in content.items():
            name = _TABLES[table].get(key)
            if name is None:
                raise SettingsError(
                    f"{path}: [{table}] has no key {key!r}; accepted are {_listed(_TABLES[table])}"
                )
            # Python takes true for a number, too.
            if isinstance(value, bool) != (types[name] == (bool,)) or not isinstance(value, types[name]):
                wanted = " or ".join(kind.__name__ for kind in types[name])
                raise SettingsError(f"{path}: {table}.{key} must be of type {wanted}, got {value!r}")
            values[name] = value
    try:
        return Settings(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _read_access(path: Path, tables: Mapping[str, Any]) -> AccessSettings:
    try:
        return read_access(tables)
    except (AttributeError, ValueError) as error:
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
