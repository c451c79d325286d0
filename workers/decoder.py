"""The back half of many streams: speech events in, transcripts and translations out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.batching import Steps
from pipeline.gemma.matformer import Widths
from workers.host import StreamHost
from workers.messages import Push, Request, Resumption, Update
from workers.protocols import DecoderStream


class DecoderWorker(StreamHost[DecoderStream]):
    """Hosts a :class:`~pipeline.translation.SpeechTranslator` per stream.

    A ``Push`` brings speech events and is answered with the events for the client, an ``Update``
    changes settings.
    """

    def _steps(self, state: DecoderStream, request: Request[Any]) -> Steps[Any, Any, Sequence[object]]:
        match request:
            case Push(items=heard):
                events: list[object] = []
                for event in heard:
                    events += yield from state.steps(event)
                return events
            case Update(targets=targets, partials=partials, context=context, glossary=glossary):
                state.update(targets=targets, partials=partials, context=context, glossary=glossary)
                return ()
        raise TypeError(f"a decoder does not take {type(request).__name__}")

    def _resume(self, state: DecoderStream, resumption: Resumption) -> None:
        state.resume(resumption.checkpoint, resumption.utterance, resumption.shown, resumption.language)

    def _resize(self, state: DecoderStream, widths: Widths | None) -> None:
        state.resize(widths)
