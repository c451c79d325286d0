"""What is to be seen of a stream: its finals by language, and as subtitles."""

from __future__ import annotations

from pipeline.config import StreamConfig
from pipeline.text.subtitles import Cue
from pipeline.wire.events import Transcript, Translation
from workers.eventlog import EventLog
from workers.published import Published


def test_finals_are_kept_by_language_and_partial_texts_are_not():
    stream = Published("s", StreamConfig(source="es", targets=("en", "de")), "hall", EventLog())
    about = {"utterance": 0, "start": 0.0, "end": 1.0, "tentative": ""}
    said = Transcript(**about, stable="hola", final=True)
    told = {t: Translation(**about, stable=t, target=t, final=True) for t in ("en", "de")}
    silent = Translation(**about, stable="", target="en", final=True)
    for event in (Transcript(**about, stable="ho", final=False), said, *told.values(), silent):
        stream.keep(event)

    assert stream.finals("es") == [said]
    assert stream.finals("en") == [told["en"], silent]
    assert stream.cues("en") == [Cue(0.0, 1.0, "en")]
