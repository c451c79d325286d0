"""Captions in a terminal: finals scroll up, the running utterance stands below them."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.wire import events
from pipeline.wire.events import Event, UtteranceText


class Captions:
    """Shows the events of one stream.

    A final translation is printed below its transcript, also when events of later utterances came
    in between. Use as a context manager; leaving it clears the running utterance.

    Args:
        console: where to; when it is no terminal, only finals are printed.
        source: language that is spoken.
    """

    def __init__(self, console: Console, source: str) -> None:
        self._console = console
        self._source = source
        # Newest text of the running utterance by language, the spoken one first.
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
        if isinstance(event, UtteranceText):
            language = event.target if isinstance(event, events.Translation) else self._source
            if event.final:
                self._running.pop(language, None)
                if event.stable:
                    self._print(language, event)
            else:
                self._running[language] = _text(language, event)
        elif isinstance(event, events.Error):
            self._console.print(Text(f"{event.code}: {event.message}", style="red"))
        else:
            return
        if self._live is not None:
            self._live.update(Text("\n").join(self._running.values()), refresh=True)

    def _print(self, language: str, event: UtteranceText) -> None:
        line = Text(f"{_clock(event.start)}  ", style="dim") if language == self._source else Text(" " * 9)
        self._console.print(line + _text(language, event), soft_wrap=True)


def _text(language: str, event: UtteranceText) -> Text:
    return Text.assemble(
        (f"{language}  ", "bold cyan"),
        (event.stable, "bold" if isinstance(event, events.Translation) else ""),
        (event.tentative, "dim italic"),
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{int(minutes):02}:{seconds:04.1f}"
