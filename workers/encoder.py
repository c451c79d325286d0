"""The front half of many streams: audio bytes in, speech events out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.batching import Steps
from pipeline.gemma.matformer import Widths
from workers.host import StreamHost
from workers.messages import Flush, Push, Request, Resumption
from workers.protocols import EncoderStream


class EncoderWorker(StreamHost[EncoderStream]):
    """Hosts a :class:`~pipeline.speech.SpeechEncoder` per stream.

    A ``Push`` brings pieces of audio bytes, a ``Flush`` ends the running utterance; both are answered
    with speech events.
    """

    def _steps(self, state: EncoderStream, request: Request[Any]) -> Steps[Any, Any, Sequence[object]]:
        match request:
            case Push(items=pieces):
                return (yield from state.steps(b"".join(pieces)))
            case Flush():
                return (yield from state.flush_steps())
        raise TypeError(f"an encoder does not take {type(request).__name__}")

    def _resume(self, state: EncoderStream, resumption: Resumption) -> None:
        if resumption.checkpoint is not None:
            state.resume(resumption.checkpoint)

    def _resize(self, state: EncoderStream, widths: Widths | None) -> None:
        """The encoder has one size."""
