"""Streams that need no model: their "audio" is ASCII text, and a full stop ends an utterance.

The encoder half hears letters, the decoder half writes them down as they come; a translation is the
utterance in capitals behind its target. ``!`` is poison to the decoder, ``?`` to the encoder.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import LanguageError
from pipeline.wire import events
from workers.protocols import Loaded

END = ("end",)

WORK = "work"
"""What they ask of the model."""


def letters(word):
    """What the encoder half hears of a word."""
    return tuple(("letter", letter) for letter in word)


class Forgetful:
    """Cannot go on elsewhere but from the start."""

    def checkpoint(self):
        return None

    def resume(self, *where):
        raise AssertionError("it gave no checkpoint")


class SpellingEncoder:
    def __init__(self, config):
        self.open = False

    def checkpoint(self):
        return None if self.open else "closed"

    def resume(self, checkpoint):
        assert checkpoint == "closed"

    def steps(self, data):
        heard = []
        for letter in data.decode("ascii"):
            if letter == "?":
                raise RuntimeError("the encoder was poisoned")
            heard.append(END if letter == "." else ("letter", letter))
            self.open = letter != "."
        yield WORK
        return heard

    def flush_steps(self):
        open_, self.open = self.open, False
        yield WORK
        return [END] if open_ else []


class SpellingDecoder:
    def __init__(self, config):
        _check(config.targets)
        self.source, self.targets, self.partials = config.source, config.targets, config.partials
        self.text = ""
        self.position = 0
        self.utterance = 0
        self.shown, self.shown_of = "", 0

    def checkpoint(self):
        return None if self.text else (self.targets, self.partials, self.position, self.utterance)

    def resume(self, checkpoint, utterance, shown, language):
        if checkpoint is not None:
            self.targets, self.partials, self.position, self.utterance = checkpoint
        self.shown, self.shown_of = shown.get("", ""), utterance

    def steps(self, event):
        yield WORK
        if event == END:
            return self._finals()
        letter = event[1]
        if letter == "!":
            raise RuntimeError(f"the decoder was poisoned by {self.text}")
        self.text += letter
        self.position += 1
        if not self.partials:
            return []
        return [events.Transcript(**self._about(), stable=self.text, tentative="", final=False)]

    def resize(self, ffn_widths):
        self.widths = ffn_widths

    def update(self, *, targets, partials, context, glossary):
        if targets is not None:
            _check(targets)
            self.targets = targets
        if partials is not None:
            self.partials = partials

    def _finals(self):
        text, about = self.text, self._about()
        assert self.utterance != self.shown_of or text.startswith(self.shown)
        self.text, self.utterance = "", self.utterance + 1
        return [
            events.Transcript(**about, stable=text, tentative="", final=True),
            *(
                events.Translation(
                    **about, target=target, stable=f"{target}:{text.upper()}", tentative="", final=True
                )
                for target in self.targets
            ),
        ]

    def _about(self):
        end = self.position / 32_000
        start = end - len(self.text) / 32_000
        return {"utterance": self.utterance, "start": start, "end": end, "audio_time": end}


def listening(*found):
    """A spelling decoder that detects a language: the next of these in each one that is opened."""
    left = iter(found)

    class Listener(SpellingDecoder):
        def __init__(self, config):
            super().__init__(config)
            self.language = next(left)

        def resume(self, checkpoint, utterance, shown, language):
            super().resume(checkpoint, utterance, shown, language)
            self.language = language or self.language

        def steps(self, event):
            told = yield from super().steps(event)
            heard = events.Transcript
            return [replace(e, language=self.language) if isinstance(e, heard) else e for e in told]

    return Listener


def _check(targets):
    for target in targets:
        if target not in ("en", "fr", "de"):
            raise LanguageError(f"the model does not know {target!r}; it knows en, fr, de")


def loaded(open_stream):
    """As if a model had been loaded; its work is nothing."""
    return Loaded(open_stream, lambda works: [None] * len(works))


def load_encoder():
    return loaded(SpellingEncoder)


def load_decoder():
    return loaded(SpellingDecoder)
