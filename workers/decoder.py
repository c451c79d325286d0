"""The back half of many streams: speech events in, transcripts and translations out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.host import StreamHost
from workers.messages import Push, Request, Update
from workers.protocols import DecoderStream


class DecoderWorker(StreamHost[DecoderStream]):
    """Hosts a :class:`~pipeline.translation.SpeechTranslator` per stream.

    A ``Push`` brings speech events and is answered with the events for the client, an ``Update``
    changes settings.
    """

    def _carry_out(self, state: DecoderStream, request: Request[Any]) -> Sequence[object]:
        match request:
            case Push(items=events):
                return [event for item in events for event in state.push(item)]
            case Update(targets=targets, partials=partials):
                state.update(targets=targets, partials=partials)
                return ()
        raise TypeError(f"a decoder does not take {type(request).__name__}")
