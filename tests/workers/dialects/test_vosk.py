"""vosk-server's protocol by the frames that its users send, literally."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.workers.dialects.conftest import dialled

PATH = "/v1/vosk/es-ES"


async def said(socket, *pieces):
    """Send pieces one by one, each when the last has been answered, as vosk-server's own client does."""
    answers = []
    for piece in pieces:
        await socket.send(piece)
        answers.append(await socket.receive())
    return answers


async def test_bigbluebutton(server):
    """The frames of bbb-transcription-controller: the rate is a string, the end has its spaces."""
    async with dialled(server, PATH) as socket:
        await socket.send('{"config": { "sample_rate": "16000" } }')
        answers = await said(socket, b"hola", b" mundo..", b"adios!"[:4])
        await socket.send('{"eof" : 1 }')
        last, code = await socket.rest()

    assert all(set(answer) <= {"partial", "text"} for answer in answers)
    text = " ".join(a["text"] for a in [*answers, *last] if a.get("text"))
    assert text == "hola mundo adio"
    assert len(last) == 1
    assert code == 1000


async def test_every_piece_of_audio_has_one_answer_and_partials_grow(server):
    async with dialled(server, PATH) as socket:
        answers = await said(socket, b"hola", *[b""] * 200)
        partials = [answer["partial"] for answer in answers]

    assert partials[-1] == "hola"
    assert all(later.startswith(earlier) for earlier, later in pairwise(partials))


async def test_the_end_brings_all_that_was_not_told(server):
    async with dialled(server, PATH) as socket:
        await socket.send(b"uno.dos.tres")
        first = await socket.receive()
        await socket.send('{"eof" : 1}')
        last, _ = await socket.rest()

    assert " ".join(filter(None, [first.get("text"), *(a["text"] for a in last)])) == "uno dos tres"


async def test_a_translation_instead(server):
    async with dialled(server, PATH + "?target=de") as socket:
        await socket.send(b"hola.\0", '{"eof" : 1}')
        received, _ = await socket.rest()

    assert received[-1]["text"] == "de:HOLA"


async def test_asterisk_and_vosk_clients_configure_more(server):
    async with dialled(server, "/v1/vosk/es") as socket:
        await socket.send(
            '{"config" : { "phrase_list" : ["uno", "dos"], "sample_rate" : 8000.0, "words": true, '
            '"max_alternatives": 0 } }',
            b"hola",
            '{"reset" : 1}',
            b"adios.",
            '{"eof" : 1}',
        )
        received, code = await socket.rest()

    assert " ".join(a["text"] for a in received if a.get("text")) == "hola adios"
    assert code == 1000


@pytest.mark.parametrize(
    "message",
    ["{", "[]", '{"config": 1}', '{"config": {"sample_rate": "fast"}}', '{"config": {"sample_rate": 1e9}}'],
)
async def test_nonsense_ends_the_connection(server, message):
    async with dialled(server, PATH) as socket:
        await socket.send(message)
        received, code = await socket.rest()

    assert (received, code) == ([], 1008)


async def test_nonsense_later_counts_as_never_sent(server):
    async with dialled(server, PATH) as socket:
        await socket.send(b"hola", "{", b".\0", '{"eof" : 1}')
        received, code = await socket.rest()

    assert " ".join(a["text"] for a in received if a.get("text")) == "hola"
    assert code == 1000
