"""Captions in a terminal: finals scroll up, the running utterance stands below them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.gemma.prompt import is_detected
from pipeline.wire import events
from pipeline.wire.events import Event, UtteranceText


class Captions:
    """Shows the events of one stream.

    A final translation is printed below its transcript, also when events of later utterances came
    in between. Use as a context manager; leaving it clears the running utterance.

    Args:
        console: where to; when it is no terminal, only finals are printed.
        source: language that is spoken, as ``start`` has it.
    """

    def __init__(self, console: Console, source: str) -> None:
        self._console = console
        # What stands before a transcript whose language no event tells: where it is to be detected, nothing
        # but room for it.
        self._source = "  " if is_detected(source) else source
        # Newest text of the running utterance by target, the transcript's as "".
        self._running: dict[str, Text] = {}
        self._live = (
            Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(Text(), refresh=True)
            self._live.stop()

    def show(self, event: Event) -> None:
        """Show an event, as far as it is something to read."""
        match event:
            case events.Transcript():
                self._show(event, "", _text(event.language or self._source, event))
            case events.Translation():
                self._show(event, event.target, _text(event.target, event))
            case events.Error():
                self._console.print(Text(f"{event.code}: {event.message}", style="red"))
            case _:
                return
        if self._live is not None:
            self._live.update(Text("\n").join(self._running.values()), refresh=True)

    def _show(self, event: UtteranceText, target: str, line: Text) -> None:
        if not event.final:
            self._running[target] = line
            return
        self._running.pop(target, None)
        if event.stable:
            time = "" if target else _clock(event.start)
            self._console.print(Text(f"{time:<9}", style="dim") + line, soft_wrap=True)


def _text(language: str, event: UtteranceText) -> Text:
    return Text.assemble(
        (f"{language}  ", "bold cyan"),
        (event.stable, "bold" if isinstance(event, events.Translation) else ""),
        (event.tentative, "dim italic"),
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{int(minutes):02}:{seconds:04.1f}"
