"""Which dialect is spoken where."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest

from workers.dialects.openai_transcription import TranscriptionSession
from workers.dialects.openai_translation import TranslationSession
from workers.dialects.routes import dialect_at
from workers.dialects.simulstream import Simulstream
from workers.dialects.vosk import Vosk


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/realtime?intent=transcription", TranscriptionSession),
        ("/v1/realtime/translations?model=gpt-realtime-translate", TranslationSession),
        ("/v1/vosk/es-ES", Vosk),
        ("/v1/vosk/pt_BR?target=en", Vosk),
        ("/v1/simulstream", Simulstream),
    ],
)
async def test_addresses(server, path, dialect):
    assert isinstance(dialect_at(path, {}), dialect)

    def get():
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.http + path)
        with caught.value as answer:
            return answer.code

    assert await asyncio.to_thread(get) == 426


@pytest.mark.parametrize(
    "path", ["/", "/v1/stream", "/v1/vosk/", "/v1/vosk/12", "/v1/vosk/es/x", "/v1/realtime/x"]
)
def test_elsewhere_is_none(path):
    assert dialect_at(path, {}) is None
