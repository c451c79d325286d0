"""Sinks as ``surtitle.toml`` names them, and the sinks that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.text.cues import CueConfig
from workers.sinks.base import ClosedError, Sink
from workers.sinks.obs import Obs
from workers.sinks.vmix import VMix
from workers.sinks.webhook import Webhook
from workers.sinks.youtube import YouTube
from workers.sinks.zoom import Zoom

FILE = "_file"
"""End of the name of an option whose value is in a file, to be read when a stream begins."""


@dataclass(frozen=True)
class Kind:
    """A kind of sink: what makes it, and the options that it must and may have."""

    make: type[Sink]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "zoom": Kind(Zoom, ("url", "locale")),
    "youtube": Kind(YouTube, ("url",)),
    "obs": Kind(Obs, ("url",), ("password", "input")),
    "vmix": Kind(VMix, ("url", "input", "field")),
    "webhook": Kind(Webhook, ("url",), ("secret",)),
}

_COMMON: Mapping[str, type] = {
    "name": str,
    "kind": str,
    "language": str,
    "always": bool,
    "lines": int,
    "width": int,
    "roll_up": bool,
}
_NEEDED = ("name", "kind", "language")


@dataclass(frozen=True)
class SinkSettings:
    """One sink.

    Args:
        name: by which streams ask for it.
        kind: one of :data:`KINDS`.
        language: whose captions it takes: a target of the stream, the spoken language, or one of those that
            may be spoken.
        cues: what the captions obey.
        options: of the kind, some as names of files.
        always: whether every stream that has the language gets it.
    """

    name: str
    kind: str
    language: str
    cues: CueConfig
    options: Mapping[str, str] = field(default_factory=dict)
    always: bool = False

    def resolved(self) -> dict[str, str]:
        """The options of the kind, those in files as these are now.

        Raises:
            ClosedError: a file cannot be read.
        """
        values = {}
        for name, value in self.options.items():
            if not name.endswith(FILE):
                values[name] = value
                continue
            try:
                values[name.removesuffix(FILE)] = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise ClosedError(f"{name} {value} cannot be read ({type(error).__name__})") from None
        return values


def read_sink(table: Mapping[str, Any]) -> SinkSettings:
    """Read one ``[[sinks]]`` of a configuration file.

    Raises:
        ValueError: a key is missing, unknown, or not of its type; the sentence says which.
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    kind = KINDS.get(str(table["kind"]))
    if kind is None:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {table['kind']!r}")
    known = (*kind.needs, *kind.takes)
    for name, value in table.items():
        wanted = _COMMON.get(name)
        if wanted is None and name.removesuffix(FILE) not in known:
            raise ValueError(f"a sink of kind {table['kind']} has no key {name!r}; it has {', '.join(known)}")
        if type(value) is not (wanted or str):
            raise ValueError(f"{name} must be of type {(wanted or str).__name__}, got {value!r}")
    options = {name: value for name, value in table.items() if name not in _COMMON}
    given = {name.removesuffix(FILE) for name in options}
    if lacking := [name for name in kind.needs if name not in given]:
        raise ValueError(f"a sink of kind {table['kind']} needs {lacking[0]} or {lacking[0]}{FILE}")
    if len(given) < len(options):
        raise ValueError("an option is given both itself and as a file")
    cues = {name: table[name] for name in ("lines", "roll_up") if name in table}
    width = table.get("width", kind.make.width)
    return SinkSettings(
        table["name"],
        table["kind"],
        table["language"],
        CueConfig(language=table["language"], width=width, **cues),
        options,
        table.get("always", False),
    )


def make_sink(kind: str, options: Mapping[str, str]) -> Sink:
    """Make a sink of resolved options.

    Raises:
        ClosedError: they cannot be used.
    """
    make: Callable[..., Sink] = KINDS[kind].make
    try:
        return make(**options)
    except ValueError as error:
        raise ClosedError(str(error)) from None
