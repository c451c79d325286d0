"""Which dialect is spoken at which address."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from workers.dialects.base import Dialect
from workers.dialects.openai_transcription import TranscriptionSession
from workers.dialects.openai_translation import TranslationSession
from workers.dialects.simulstream import Simulstream
from workers.dialects.vosk import Vosk

REALTIME = "realtime"
"""Subprotocol that OpenAI's clients in browsers offer, besides their key, and have to be given."""

BETA_HEADER, BETA_VALUE = "OpenAI-Beta", "realtime=v1"
BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
"""By which a client asks for the events of before GA; in browsers, where no header can be set, the latter."""

_VOSK = re.compile(r"/v1/vosk/([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*)")


def dialect_at(path: str, headers: Mapping[str, str], languages: Sequence[str] = ()) -> Dialect | None:
    """A new connection's dialect.

    Args:
        path: target of the request, query included.
        headers: of the request.
        languages: codes of those that the model was made for.

    Returns:
        None where no dialect other than protocol version 1 is spoken.
    """
    url = urlsplit(path)
    query = dict(parse_qsl(url.query))
    match url.path:
        case "/v1/realtime":
            return TranscriptionSession(query, languages, beta=_asks_for_beta(headers))
        case "/v1/realtime/translations":
            return TranslationSession(query, languages)
        case "/v1/simulstream":
            return Simulstream()
    if found := _VOSK.fullmatch(url.path):
        return Vosk(found[1], query)
    return None


def _asks_for_beta(headers: Mapping[str, str]) -> bool:
    offered = headers.get("Sec-WebSocket-Protocol", "")
    return BETA_VALUE in headers.get(BETA_HEADER, "") or BETA_SUBPROTOCOL in offered
